"""XIV's config: the paper's setting, and what each option changes in it."""

import re

import pytest

from configs import common, xiv
from jaxreid import experiment, optim

DATASETS = tuple(common.DATASETS)
# What an ablation changes, by its docstring line.
CHANGES = {
  '': {},
  'baseline': {'method.x': 'none', 'method.gap_weight': 0.0},
  'x': {'method.gap_weight': 0.0},
  'mean': {'method.x': 'mean', 'method.gap_weight': 0.0},
  'gray': {'method.x': 'gray', 'method.gap_weight': 0.0},
  'value': {'method.x': 'value', 'method.gap_weight': 0.0},
  'luma': {'method.x': 'luma', 'method.gap_weight': 0.0},
  'plain': {'method.neck': False, 'backbone.last_stride': 2},
  'aligngan': {'method.neck': False},
  'no_x': {'method.x': 'none'},
  'released': {'method.gap': 'centers', 'method.label_smoothing': 0.1},
}


def _flat(tree, prefix=''):
  flat = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      flat.update(_flat(value, f'{prefix}{name}.'))
    else:
      flat[prefix + name] = value
  return flat


def _differences(config, other):
  """Field -> value in `config`, where it is not that of `other`."""
  new, old = _flat(config.to_dict()), _flat(other.to_dict())
  assert new.keys() == old.keys()
  return {name: new[name] for name in new if new[name] != old[name]}


@pytest.mark.parametrize('dataset', DATASETS)
@pytest.mark.parametrize('ablation', CHANGES)
def test_an_ablation_changes_what_it_says(dataset, ablation):
  default = xiv.get_config(f'dataset={dataset}')
  config = xiv.get_config(f'dataset={dataset},ablation={ablation}')
  assert _differences(config, default) == CHANGES[ablation]
  method = experiment.make_method(config, 7)
  optimizers = experiment.make_optimizers(config, method, 10)
  assert set(optimizers) == set(method.losses) == {'backbone'}


def test_the_docstring_lists_all_ablations():
  section = xiv.__doc__.split('tables:')[1].split('Figure 5')[0]
  listed = re.findall(r'^  ([\w()]+) +\S', section, re.MULTILINE)
  assert sorted(listed) == sorted(name or '(none)' for name in xiv.ABLATIONS)
  assert CHANGES.keys() == xiv.ABLATIONS.keys()


@pytest.mark.parametrize('dataset', ['sysu_mm01', 'regdb', 'npu_reid'])
def test_the_papers_setting(dataset):
  config = xiv.get_config(f'dataset={dataset}')
  assert config.dataset.image_size == (256, 128)
  assert config.batch.identities * config.batch.images_per_identity == 48
  assert config.backbone.name == 'resnet50'
  assert config.method.cross_margin == 0.5
  assert config.method.margin == 0.3
  assert config.method.gap_weight == 0.1
  assert config.optimizer.name == 'adam'
  assert config.optimizer.weight_decay == 5e-4
  plan = optim.Schedule(**config.schedule.to_dict())
  assert optim.total_steps(plan, 464) == 120 * 464
  rate = optim.schedule(plan, 10)
  # By the number of the epoch, from 1.
  for epoch, expected in (
    (1, 3.5e-4 * (0.01 * 0.9 + 0.1)),
    (5, 3.5e-4 * (0.01 * 0.5 + 0.5)),
    (10, 3.5e-4),
    (39, 3.5e-4),
    (40, 3.5e-5),
    (69, 3.5e-5),
    (70, 3.5e-6),
    (120, 3.5e-6),
  ):
    assert float(rate(10 * (epoch - 1))) == pytest.approx(expected)


@pytest.mark.parametrize('dataset', DATASETS)
def test_densenet(dataset):
  default = xiv.get_config(f'dataset={dataset},ablation=x')
  config = xiv.get_config(f'dataset={dataset},ablation=x,backbone=densenet121')
  assert _differences(config, default) == {
    'backbone.name': 'densenet121',
    'backbone.last_stride': 2,
    'dataset.image_size': (224, 224),
  }
  experiment.make_method(config, 7)
  with pytest.raises(ValueError, match="'densenet121', not 'vgg16'"):
    xiv.get_config('backbone=vgg16')


def test_the_default_is_small_and_reports_both_distances():
  config = xiv.get_config()
  assert config.dataset.image_size == (96, 48)
  assert config.backbone.name == 'resnet_small'
  for dataset in DATASETS:
    config = xiv.get_config(f'dataset={dataset}')
    assert config.evaluation.test_distance == 'both'
