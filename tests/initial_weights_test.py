"""A run starts from the file that its config names, or says what is wrong."""

import json

import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from configs import baseline, lupi
from jaxreid import experiment, train
from jaxreid.models import pretrained
from tests.models.pretrained_networks_test import _released, _resnet18


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """Name -> path: AGW and LUPI on ResNet-18, and ImageNet stages."""
  folder = tmp_path_factory.mktemp('weights')
  contents = {
    'agw': _released('AGW'),
    'lupi': _released('LUPI'),
    'stages': _resnet18(3),
  }
  for name, state in contents.items():
    np.savez(folder / f'{name}.npz', **state)
  return {name: str(folder / f'{name}.npz') for name in contents}


def _config(make, data_dir):
  config = make.get_config()
  config.backbone.name = 'resnet18'
  config.dataset.config = 'tiny'
  config.dataset.data_dir = str(data_dir)
  config.dataset.image_size = (24, 12)
  config.batch.identities = 4
  config.method.padding = 1
  config.evaluation.batch_size = 40
  return config


@pytest.fixture
def config(tiny_data_dir):
  return _config(baseline, tiny_data_dir)


@pytest.mark.slow
def test_a_released_network_is_evaluated_untrained(config, files, tmp_path):
  config.weights = files['agw']
  run = train.open_run(config, tmp_path / 'run')
  report = train.evaluate(run)
  assert report['checkpoint'] is None
  assert report['weights'] == {
    'field': 'weights',
    'file': files['agw'],
    'sha256': pretrained.checksum(files['agw']),
  }
  assert f'Weights: {files["agw"]}, as released.' in report['table']
  written = json.loads((tmp_path / 'run' / 'results.json').read_text())
  assert written['weights'] == report['weights']
  assert np.isfinite([r['mAP'] for r in written['results'].values()]).all()
  state = run.setup.init()
  released = pretrained.load(files['agw'])
  params = state.params['backbone']
  assert_array_equal(
    params['backbone']['infrared_stage0']['norm']['bias'],
    released['thermal_module.thermal.bn1.bias'],
  )
  assert_array_equal(
    state.model_state['backbone']['head']['neck']['mean'],
    released['bottleneck.running_mean'],
  )
  # 8 people are not the 6 of the file: this classifier starts afresh.
  assert params['head']['classifier']['kernel'].shape == (512, 8)
  # On all devices, as a restored state would be.
  assert all(
    leaf.sharding.num_devices == jax.device_count()
    for leaf in jax.tree.leaves(state)
  )


def test_stages_are_named_in_the_results(config, files):
  config.backbone.pretrained = files['stages']
  setup = experiment.build(config)
  assert setup.weights.source['field'] == 'backbone.pretrained'
  backbone = setup.init().params['backbone']['backbone']
  stages = pretrained.load(files['stages'])
  for stream in ('visible', 'infrared'):
    assert_array_equal(
      backbone[f'{stream}_stage0']['conv']['kernel'],
      stages['conv1.weight'].transpose(2, 3, 1, 0),
    )


@pytest.mark.parametrize(
  ('make', 'changes', 'message'),
  [
    (baseline, {'weights': 'none.npz'}, r'^weights: .*no weights file none'),
    (baseline, {'weights': 'stages'}, r'^weights: .*backbone\.pretrained'),
    (
      baseline,
      {'weights': 'agw', 'backbone.stem_relu': False},
      r'^weights: .*backbone\.stem_relu=True, not False',
    ),
    (
      lupi,
      {'weights': 'lupi'},
      r'^weights: .*backbone\.stem_relu=False, not True',
    ),
    (baseline, {'weights': 'lupi', 'backbone.stem_relu': False}, 'lupi.py'),
    (lupi, {'weights': 'agw'}, r'configs/baseline\.py'),
    (
      baseline,
      {'weights': 'agw', 'backbone.nonlocal_blocks': False},
      r'^weights: .*48 problems',
    ),
    (
      baseline,
      {'weights': 'agw', 'backbone.name': 'resnet_small'},
      r'^weights: .*do not fit the network',
    ),
    (
      baseline,
      {'weights': 'agw', 'backbone.pretrained': 'stages'},
      'both given',
    ),
    (
      baseline,
      {'weights': 'agw', 'dataset.trials': ('trial_1', 'trial_2')},
      r'dataset\.trials are several splits',
    ),
    (
      baseline,
      {'backbone.pretrained': 'agw'},
      r'^backbone\.pretrained: .*problems',
    ),
    (
      baseline,
      {'backbone.pretrained': 'stages', 'backbone.name': 'densenet121'},
      r'^backbone\.',
    ),
  ],
)
def test_mistakes_are_named_before_data_is_touched(
  tmp_path, files, monkeypatch, make, changes, message
):
  def fail(*args):
    raise AssertionError('data was opened')

  monkeypatch.setattr(experiment, 'open_table', fail)
  config = _config(make, tmp_path)
  for field, value in changes.items():
    if field in ('weights', 'backbone.pretrained'):
      value = files.get(value, value)
    config.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=message):
    train.open_run(config, tmp_path / 'run')
  assert not (tmp_path / 'run' / 'config.json').exists()


def test_nothing_to_start_from(config):
  assert experiment.build(config).weights is None
