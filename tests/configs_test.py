"""Every config, with every option, builds and differs in what it says."""

import pathlib
import re

import pytest

from configs import baseline, common, dual_swin, lupi, tsgan, xiv
from jaxreid import experiment, optim

FILES = {
  'baseline': baseline,
  'dual_swin': dual_swin,
  'lupi': lupi,
  'tsgan': tsgan,
  'xiv': xiv,
}
DATASETS = ('synthetic_reid', 'sysu_mm01', 'regdb', 'npu_reid')


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
  return {
    name: new.get(name)
    for name in new.keys() | old.keys()
    if new.get(name) != old.get(name)
  }


def test_every_config_file_is_tested_here():
  folder = pathlib.Path(lupi.__file__).parent
  files = {path.stem for path in folder.glob('*.py')}
  assert files - {'common', '__init__'} == set(FILES)
  assert set(common.DATASETS) == set(DATASETS)


@pytest.mark.parametrize('dataset', DATASETS)
@pytest.mark.parametrize('ablation', lupi.ABLATIONS)
def test_every_ablation_builds_on_every_dataset(dataset, ablation):
  config = lupi.get_config(f'dataset={dataset},ablation={ablation}')
  assert config.dataset.name == dataset
  assert config.method.name in experiment.METHODS
  method = experiment.make_method(config, 7)
  optimizers = experiment.make_optimizers(config, method, 10)
  assert set(optimizers) == set(method.losses) == {'backbone'}


@pytest.mark.parametrize('dataset', DATASETS)
@pytest.mark.parametrize(
  'modalities', ['visible+infrared', 'visible', 'infrared', 'gray']
)
def test_every_baseline_builds_on_every_dataset(dataset, modalities):
  config = baseline.get_config(f'dataset={dataset},modalities={modalities}')
  assert config.method.name == 'baseline'
  assert config.method.modalities == tuple(modalities.split('+'))
  experiment.make_method(config, 7)
  method = experiment.make_method(config, 7)
  experiment.make_optimizers(config, method, 10)


def test_the_baseline_is_the_ablation_agw():
  for dataset in DATASETS:
    left = baseline.get_config(f'dataset={dataset}')
    right = lupi.get_config(f'dataset={dataset},ablation=agw')
    assert left.to_dict() == right.to_dict()
  single = baseline.get_config('modalities=visible')
  same = lupi.get_config('ablation=visible_only')
  # `split` does nothing to a single stream.
  assert set(_differences(single, same)) <= {'method.split'}


SINGLE = {
  'name': 'baseline',
  'triplet': 'weighted_regularized',
  'margin': 0.3,
  'erasing': 0.0,
  'pooling': 'gem',
  'label_smoothing': 0.0,
  'padding': 10,
  'test_feature': 'neck',
}
# What an ablation changes in the paper's setting, by its docstring line.
CHANGES = {
  '': {},
  'gray': {
    'method.intermediate': 'gray',
    'method.independent_views': False,
    'method.erasing': 0.0,
  },
  'random_gray': {'method.independent_views': False, 'method.erasing': 0.0},
  'id_only': {
    'method.independent_views': False,
    'method.erasing': 0.0,
    'method.triplet_weight': 0.0,
    'method.color_free_weight': 0.0,
  },
  'triplet_only': {
    'method.independent_views': False,
    'method.erasing': 0.0,
    'method.color_free_weight': 0.0,
  },
  'color_only': {
    'method.independent_views': False,
    'method.erasing': 0.0,
    'method.triplet_weight': 0.0,
  },
  'no_intermediate': {
    'method.independent_views': False,
    'method.erasing': 0.0,
    'method.intermediate': 'none',
  },
  'released_losses': {
    'method.triplet_reduction': 'mean',
    'method.color_free': 'mse',
  },
}
BASELINES = {
  'agw': {**SINGLE, 'modalities': ('visible', 'infrared'), 'split': 1},
  'visible_only': {**SINGLE, 'modalities': ('visible',)},
  'infrared_only': {**SINGLE, 'modalities': ('infrared',)},
  'gray_only': {**SINGLE, 'modalities': ('gray',)},
  'pretrained': {**SINGLE, 'modalities': ('visible',)},
}


@pytest.mark.parametrize('ablation', CHANGES)
def test_an_ablation_changes_what_it_says(ablation):
  default = lupi.get_config('dataset=sysu_mm01')
  config = lupi.get_config(f'dataset=sysu_mm01,ablation={ablation}')
  assert _differences(config, default) == CHANGES[ablation]


@pytest.mark.parametrize('ablation', BASELINES)
def test_an_ablation_of_another_method_replaces_it(ablation):
  default = lupi.get_config('dataset=sysu_mm01')
  config = lupi.get_config(f'dataset=sysu_mm01,ablation={ablation}')
  assert config.method.to_dict() == BASELINES[ablation]
  others = {
    name
    for name in _differences(config, default)
    if not name.startswith('method.')
  }
  assert others == ({'schedule.epochs'} if ablation == 'pretrained' else set())


@pytest.mark.parametrize('ablation', lupi.ABLATIONS)
def test_the_rows_of_a_table_share_their_setting(ablation):
  default = lupi.get_config()
  config = lupi.get_config(f'ablation={ablation}')
  others = {
    name
    for name in _differences(config, default)
    if not name.startswith('method.')
  }
  assert others == ({'schedule.epochs'} if ablation == 'pretrained' else set())
  assert config.method.padding == 3
  paper = lupi.get_config(f'dataset=sysu_mm01,ablation={ablation}')
  assert config.method.keys() == paper.method.keys()


def test_all_ablations_are_known_here():
  assert CHANGES.keys() | BASELINES.keys() == lupi.ABLATIONS.keys()


def test_the_docstring_lists_all_ablations():
  section = lupi.__doc__.split('tables:')[1].split('Equation')[0]
  listed = re.findall(r'^  ([\w()]+) +\S', section, re.MULTILINE)
  expected = {name or '(none)' for name in lupi.ABLATIONS}
  assert set(listed) == expected
  assert len(listed) == len(expected)


def test_released_losses_are_those_of_the_authors_on_any_dataset():
  for dataset in DATASETS:
    config = lupi.get_config(f'dataset={dataset},ablation=released_losses')
    assert config.method.triplet_weight == 1
    assert config.method.color_free_weight == 10


def test_no_training_takes_no_step():
  for dataset in DATASETS:
    config = lupi.get_config(f'dataset={dataset},ablation=pretrained')
    plan = optim.Schedule(**config.schedule.to_dict())
    assert optim.total_steps(plan, 696) == 0


def test_the_papers_setting():
  config = lupi.get_config('dataset=sysu_mm01')
  assert config.dataset.image_size == (288, 144)
  assert config.dataset.validation_identities == 0
  assert config.batch.to_dict() == {'identities': 8, 'images_per_identity': 4}
  assert config.backbone.name == 'resnet50'
  assert config.backbone.last_stride == 1
  assert config.method.padding == 10
  assert config.method.erasing == 0.5
  assert config.method.margin == 0.3
  assert config.method.kl_weight == 0.5
  assert config.method.color_free_weight == 10
  assert config.method.split == 2
  # Warm-up over 10 epochs, then 0.1, 0.01 from epoch 20, 0.001 from 50.
  plan = optim.Schedule(**config.schedule.to_dict())
  rate = optim.schedule(plan, 100)
  for epoch, expected in (
    (0, 0.01),
    (9, 0.1),
    (19, 0.1),
    (20, 0.01),
    (50, 1e-3),
  ):
    assert float(rate(100 * epoch)) == pytest.approx(expected)
  assert optim.total_steps(plan, 100) == 8100


def test_the_default_is_small():
  config = lupi.get_config()
  assert config.to_dict() == lupi.get_config('').to_dict()
  assert config.dataset.name == 'synthetic_reid'
  assert config.dataset.image_size == (96, 48)
  assert config.backbone.name == 'resnet_small'
  assert config.optimizer.multipliers.to_dict() == {}


@pytest.mark.parametrize('module', FILES.values())
def test_a_config_says_how_to_run_it_and_what_to_expect(module):
  name = module.__name__.split('.')[-1]
  assert f'python -m jaxreid.main --config=configs/{name}.py' in module.__doc__
  assert re.search(r'rank-1\s+[\d.]+ %', module.__doc__)


@pytest.mark.parametrize('module', FILES.values())
@pytest.mark.parametrize(
  ('arg', 'message'),
  [
    ('color=red', r"'color=red'; .*dataset"),
    ('dataset', r"'dataset'; write name=value"),
    ('dataset=market1501', r"'market1501'; .*sysu_mm01"),
  ],
)
def test_wrong_arguments_are_named(module, arg, message):
  with pytest.raises(ValueError, match=message):
    module.get_config(arg)


def test_an_unknown_ablation_is_named():
  with pytest.raises(ValueError, match=r"'greyscale'; .*agw, .*gray"):
    lupi.get_config('ablation=greyscale')


def test_an_unknown_modality_is_named():
  config = baseline.get_config('modalities=thermal')
  with pytest.raises(ValueError, match=r'method.modalities .*thermal'):
    experiment.make_method(config, 7)


def test_parse_arg():
  assert common.parse_arg(None, a='1', b='') == {'a': '1', 'b': ''}
  assert common.parse_arg('', a='1') == {'a': '1'}
  assert common.parse_arg('b=x,a=2', a='1', b='') == {'a': '2', 'b': 'x'}
  assert common.parse_arg('a=x=y', a='1') == {'a': 'x=y'}
  assert common.parse_arg('a=', a='1') == {'a': ''}


def test_configs_do_not_share_their_values():
  first = lupi.get_config()
  first.batch.identities = 99
  first.dataset.name = 'other'
  assert lupi.get_config().batch.identities == 8
  assert lupi.get_config().dataset.name == 'synthetic_reid'


def test_trials_of_regdb():
  for module in (lupi, baseline):
    one = module.get_config('dataset=regdb,trial=7')
    assert (one.dataset.config, one.dataset.trials) == ('trial_7', ())
    ten = module.get_config('dataset=regdb,trial=all')
    assert ten.dataset.trials == tuple(f'trial_{k}' for k in range(1, 11))


@pytest.mark.parametrize(
  ('arg', 'message'),
  [
    ('dataset=regdb,trial=11', "1 to 10 or 'all', not '11'"),
    ('dataset=sysu_mm01,trial=2', 'trial=2 is for dataset=regdb'),
  ],
)
def test_impossible_trials(arg, message):
  with pytest.raises(ValueError, match=message):
    lupi.get_config(arg)
