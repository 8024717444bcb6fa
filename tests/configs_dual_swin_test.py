"""dual_swin's config, and the plug-ins in the configs of others."""

import pytest

from configs import baseline, common, dual_swin, lupi, tsgan, xiv
from jaxreid import config_checks, experiment, optim
from jaxreid.augment import exchange

DATASETS = tuple(common.DATASETS)
# What an ablation changes, by its docstring line.
NO_EXCHANGE = {'method.exchange_probability': 0.0}
CHANGES = {
  '': {},
  'baseline': {**NO_EXCHANGE, 'method.multi_mask_weight': 0.0},
  'mag': {'method.multi_mask_weight': 0.0},
  'mmtn': {**NO_EXCHANGE, 'method.spread_weight': 0.0},
  'mmtp': {**NO_EXCHANGE, 'method.triplet_weight': 0.0},
  'mmt': NO_EXCHANGE,
  'f1': {'method.split': 1},
  'f2': {'method.split': 2},
  'f4': {'method.split': 4},
  'f5': {'method.split': 5},
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
@pytest.mark.parametrize('ablation', dual_swin.ABLATIONS)
def test_an_ablation_changes_what_it_says(dataset, ablation):
  default = dual_swin.get_config(f'dataset={dataset}')
  config = dual_swin.get_config(f'dataset={dataset},ablation={ablation}')
  assert _differences(config, default) == CHANGES[ablation]
  config_checks.check_values(config)
  method = experiment.make_method(config, 7)
  optimizers = experiment.make_optimizers(config, method, 10)
  assert set(optimizers) == set(method.losses) == {'backbone'}


@pytest.mark.parametrize('dataset', ['npu_reid', 'regdb', 'sysu_mm01'])
def test_the_papers_setting(dataset):
  config = dual_swin.get_config(f'dataset={dataset}')
  assert config.dataset.image_size == (224, 224)
  assert config.batch.identities == 8
  assert config.backbone.name == 'swin_tiny'
  assert config.method.split == 3
  assert config.optimizer.to_dict() == {
    'name': 'sgd',
    'momentum': 0.9,
    'nesterov': False,
    'weight_decay': 5e-4,
    'multipliers': {},
  }
  plan = optim.Schedule(**config.schedule.to_dict())
  assert float(optim.schedule(plan, 10)(150)) == pytest.approx(0.01)


def test_the_default_is_small():
  config = dual_swin.get_config()
  assert config.dataset.name == 'synthetic_reid'
  assert config.dataset.image_size == (72, 36)
  assert config.backbone.name == 'swin_mini'
  assert config.method.padding == 3


@pytest.mark.parametrize('dataset', DATASETS)
def test_the_size_of_images_is_an_option(dataset):
  config = dual_swin.get_config(f'dataset={dataset},size=96x48')
  default = dual_swin.get_config(f'dataset={dataset}')
  changes = {'dataset.image_size': (96, 48)}
  assert _differences(config, default) == changes
  for size in ('96', '96x', '-9x48', '96x48x3'):
    with pytest.raises(ValueError, match=f'288x144, not .{size}.'):
      dual_swin.get_config(f'size={size}')


# Plug-ins.


def test_the_plug_ins_have_the_numbers_of_dual_swin():
  method = dual_swin.get_config().method
  plugins = lupi.get_config().plugins
  assert plugins.exchange.area == method.exchange_area == exchange.AREA
  assert plugins.exchange.aspect == method.exchange_aspect == exchange.ASPECT
  assert method.exchange_probability == exchange.PROBABILITY
  for name in ('margin', 'spread_margin', 'spread_weight', 'triplet_weight'):
    assert plugins.multi_mask[name] == method[name]


@pytest.mark.parametrize('module', [baseline, lupi, xiv, tsgan])
@pytest.mark.parametrize('dataset', DATASETS)
def test_plug_ins_are_off_by_default(module, dataset):
  plugins = module.get_config(f'dataset={dataset}').plugins
  assert plugins.exchange.probability == plugins.multi_mask.weight == 0


@pytest.mark.parametrize('module', [baseline, lupi, xiv, tsgan])
@pytest.mark.parametrize('exchanged', [False, True])
@pytest.mark.parametrize('compared', [False, True])
def test_plug_ins_are_switched_on_one_by_one(
  monkeypatch, module, exchanged, compared
):
  config = module.get_config()
  config.plugins.exchange.probability = 0.25 if exchanged else 0.0
  config.plugins.multi_mask.weight = 3.0 if compared else 0.0
  calls = []

  def plug(name):
    def with_options(method, **options):
      calls.append((name, options))
      return method

    return with_options

  for name in ('with_exchange', 'with_multi_mask'):
    monkeypatch.setattr(experiment.plugins, name, plug(name))
  experiment.make_method(config, 7)
  expected = []
  if compared:
    expected.append(('with_multi_mask', config.plugins.multi_mask.to_dict()))
  if exchanged:
    expected.append(('with_exchange', config.plugins.exchange.to_dict()))
  assert calls == expected


@pytest.mark.parametrize('module', [baseline, lupi, xiv, tsgan])
def test_plug_ins_fit_every_method(module):
  config = module.get_config()
  config.plugins.exchange.probability = 0.5
  config.plugins.multi_mask.weight = 1.0
  config_checks.check_values(config)
  method = experiment.make_method(config, 7)
  config.plugins.exchange.area = (0.5, 0.1)
  with pytest.raises(ValueError, match=r'exchange.area'):
    experiment.make_method(config, 7)
  assert 'backbone' in method.losses


def test_dual_swin_has_them_itself():
  assert 'plugins' not in dual_swin.get_config()
