"""Others import these names and pass these arguments: they stay."""

import importlib
import inspect
import pathlib

import pytest

import jaxreid

LABELLED = ['anchor', 'positive', 'negative', 'labels']
THREE = ['infrared', 'x', 'visible']
NAMES = {
  'jaxreid.losses.identity_loss': ['logits', 'labels', 'label_smoothing'],
  'jaxreid.losses.batch_hard_triplet': [*LABELLED, 'margin'],
  'jaxreid.losses.weighted_regularized_triplet': ['embeddings', 'labels'],
  'jaxreid.losses.cyclic_triplet': [
    'visible',
    'infrared',
    'intermediate',
    'labels',
    'margin',
    'reduction',
  ],
  'jaxreid.losses.multi_mask_triplet': [
    'anchor',
    'other',
    'labels',
    'margin',
    'spread_margin',
    'spread_weight',
    'triplet_weight',
  ],
  'jaxreid.losses.color_free': [
    'visible',
    'intermediate',
    'visible_logits',
    'intermediate_logits',
    'threshold',
    'kl_weight',
    'kl_order',
  ],
  'jaxreid.losses.color_free_mse': ['visible', 'intermediate'],
  'jaxreid.losses.modality_respective_gap': [
    'embeddings',
    'logits',
    'labels',
    'margin',
    'label_smoothing',
  ],
  'jaxreid.losses.cross_modality_gap': [*THREE, 'labels', 'margin'],
  'jaxreid.losses.cross_center_gap': [*THREE, 'labels', 'margin'],
  'jaxreid.losses.xiv_loss': [
    *THREE,
    'infrared_logits',
    'x_logits',
    'visible_logits',
    'labels',
    'gap_weight',
    'cross_margin',
    'margin',
    'label_smoothing',
  ],
  'jaxreid.losses.generator_loss': ['logits', 'least_squares'],
  'jaxreid.losses.discriminator_loss': [
    'real_logits',
    'fake_logits',
    'least_squares',
  ],
  'jaxreid.losses.fake_pairs': ['real', 'fake', 'real_map', 'fake_map'],
  'jaxreid.losses.cycle_consistency': ['images', 'cycled'],
  'jaxreid.losses.feature_map_mse': ['student', 'teacher', 'reduction'],
  'jaxreid.distance.pairwise_euclidean': ['a', 'b'],
  'jaxreid.evaluation.ranking.rank': [
    'distance',
    'query_ids',
    'gallery_ids',
    'comparable',
    'unique_identities',
    'max_rank',
    'average_precision',
  ],
  'jaxreid.Embedder': ['workdir', 'batch_size', 'devices'],
  'jaxreid.evaluation.retrieval.find_lists': [
    'embeddings',
    'protocol',
    'test_distance',
    'which',
    'count',
    'top',
    'seed',
  ],
  'jaxreid.ranked_lists.draw': ['lists', 'images', 'title'],
  'jaxreid.evaluation.rerank.k_reciprocal': [
    'query',
    'gallery',
    'k1',
    'k2',
    'lambda_value',
  ],
}
DEFAULTS = {
  'jaxreid.losses.identity_loss': {'label_smoothing': 0.0},
  'jaxreid.losses.batch_hard_triplet': {'margin': 0.3},
  'jaxreid.losses.cyclic_triplet': {'margin': 0.3, 'reduction': 'sum'},
  'jaxreid.losses.multi_mask_triplet': {'triplet_weight': 1.0},
  'jaxreid.losses.color_free': {
    'threshold': 0.5,
    'kl_weight': 0.5,
    'kl_order': 'z_v',
  },
  'jaxreid.losses.modality_respective_gap': {
    'margin': 0.3,
    'label_smoothing': 0.0,
  },
  'jaxreid.losses.cross_modality_gap': {'margin': 0.5},
  'jaxreid.losses.cross_center_gap': {'margin': 0.5},
  'jaxreid.losses.xiv_loss': {
    'gap_weight': 0.1,
    'cross_margin': 0.5,
    'margin': 0.3,
    'label_smoothing': 0.0,
  },
  'jaxreid.losses.generator_loss': {'least_squares': False},
  'jaxreid.losses.discriminator_loss': {'least_squares': False},
  'jaxreid.losses.feature_map_mse': {'reduction': 'mean'},
  'jaxreid.evaluation.ranking.rank': {
    'comparable': None,
    'unique_identities': False,
    'max_rank': 20,
    'average_precision': 'hits',
  },
  'jaxreid.Embedder': {'batch_size': 256, 'devices': None},
  'jaxreid.evaluation.retrieval.find_lists': {
    'test_distance': 'sum',
    'which': 'random',
    'count': 6,
    'top': 10,
    'seed': 0,
  },
  'jaxreid.ranked_lists.draw': {'title': ''},
  'jaxreid.evaluation.rerank.k_reciprocal': {
    'k1': 20,
    'k2': 6,
    'lambda_value': 0.3,
  },
}


def _find(path):
  module, name = path.rsplit('.', 1)
  return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize('path', NAMES)
def test_parameters(path):
  parameters = inspect.signature(_find(path)).parameters
  assert list(parameters) == NAMES[path]
  defaults = {
    name: parameter.default
    for name, parameter in parameters.items()
    if parameter.default is not inspect.Parameter.empty
  }
  assert defaults == DEFAULTS.get(path, {})
  assert inspect.getdoc(_find(path))


def test_ranking_fields():
  ranking = _find('jaxreid.evaluation.ranking.Ranking')
  assert ranking._fields[:3] == ('cmc', 'mean_ap', 'mean_inp')


def test_version_and_type_marker():
  assert jaxreid.__version__.count('.') == 2
  assert (pathlib.Path(jaxreid.__file__).parent / 'py.typed').exists()
