"""The networks that AGW and LUPI released, and what a config must say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging as absl_logging
from numpy.testing import assert_array_equal

from jaxreid.models import pretrained, resnet_stages
from jaxreid.models.head import Head
from jaxreid.models.pretrained import match
from jaxreid.models.streams import EmbeddingNetwork, MultiStream
from tests.models.pretrained_test import _torch_state_dict

CLASSES = 6
STREAMS = {
  'AGW': ('visible', 'infrared'),
  'LUPI': ('visible', 'infrared', 'intermediate'),
}
# As the authors call them.
MODULES = {'visible': 'visible', 'infrared': 'thermal', 'intermediate': 'gray'}


def _resnet18(seed):
  state = _torch_state_dict('resnet18', seed)
  return {n: v for n, v in state.items() if not n.startswith('fc.')}


def _nonlocal(state, name, channels, width, rng):
  for layer in ('g.0', 'theta', 'phi'):
    state[f'{name}.{layer}.weight'] = rng.random((width, channels, 1, 1))
    state[f'{name}.{layer}.bias'] = rng.random(width)
  state[f'{name}.W.0.weight'] = rng.random((channels, width, 1, 1))
  state[f'{name}.W.0.bias'] = rng.random(channels)
  for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
    state[f'{name}.W.1.{leaf}'] = rng.random(channels)


def _released(layout, width=1):
  """A checkpoint of either, on ResNet-18: whole tree of names."""
  rng = np.random.default_rng(5)
  state = {}
  if layout == 'AGW':
    for i, prefix in enumerate(
      ('visible_module.visible', 'thermal_module.thermal', 'base_resnet.base')
    ):
      for name, value in _resnet18(i).items():
        state[f'{prefix}.{name}'] = value
  else:
    parts = {'conv1': '0', 'bn1': '1', 'layer1': '3'}
    for i, stream in enumerate(STREAMS['LUPI']):
      for name, value in _resnet18(i).items():
        first, _, rest = name.partition('.')
        if first in parts:
          prefix = f'{MODULES[stream]}_module.resnet_part1.{parts[first]}'
          state[f'{prefix}.{rest}'] = value
    for name, value in _resnet18(9).items():
      first, _, rest = name.partition('.')
      if first in ('layer2', 'layer3', 'layer4'):
        number = int(first[-1]) - 2
        state[f'base_resnet.resnet_part2.{number}.{rest}'] = value
  for i in range(2):
    _nonlocal(state, f'NL_2.{i}', 128, width or 64, rng)
    _nonlocal(state, f'NL_3.{i}', 256, width or 128, rng)
  for leaf in ('weight', 'running_mean', 'running_var'):
    state[f'bottleneck.{leaf}'] = rng.random(512)
  state['bottleneck.bias'] = np.zeros(512)
  state['classifier.weight'] = rng.random((CLASSES, 512))
  return {n: np.asarray(v, 'float32') for n, v in state.items()}


@functools.cache
def _shapes(layout, classes=CLASSES, split=None, **options):
  stages = resnet_stages('resnet18', **{'nonlocal_blocks': True, **options})
  split = {'AGW': 1, 'LUPI': 2}[layout] if split is None else split
  streams = STREAMS[layout]
  network = EmbeddingNetwork(MultiStream(stages, split, streams), Head(classes))
  image = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  return jax.eval_shape(
    lambda key, images: network.init(key, images, train=False),
    jax.random.key(0),
    dict.fromkeys(streams, image),
  )


def _backbone(layout, **changes):
  stem_relu = layout == 'AGW'
  known = {'name': 'resnet18', 'stem_relu': stem_relu, 'last_stride': 1}
  return {**known, **changes}


@pytest.fixture(scope='module')
def agw():
  return _released('AGW')


@pytest.fixture(scope='module')
def lupi():
  return _released('LUPI')


def test_agw_is_filled_whole(agw):
  shapes = _shapes('AGW')
  filled = pretrained.fill_network(shapes, agw, _backbone('AGW'))
  assert jax.tree.structure(filled) == jax.tree.structure(shapes)
  backbone, stats = filled['params']['backbone'], filled['batch_stats']
  for stream in STREAMS['AGW']:
    prefix = f'{MODULES[stream]}_module.{MODULES[stream]}'
    kernel = agw[f'{prefix}.conv1.weight'].transpose(2, 3, 1, 0)
    assert_array_equal(backbone[f'{stream}_stage0']['conv']['kernel'], kernel)
    assert_array_equal(
      stats['backbone'][f'{stream}_stage0']['norm']['mean'],
      agw[f'{prefix}.bn1.running_mean'],
    )
  assert_array_equal(
    backbone['stage1']['block1']['norm2']['bias'],
    agw['base_resnet.base.layer1.1.bn2.bias'],
  )
  block, name = backbone['stage3']['nonlocal1'], 'NL_3.1'
  for ours, theirs in (
    ('g', 'g.0'),
    ('theta', 'theta'),
    ('phi', 'phi'),
    ('out', 'W.0'),
  ):
    weight = agw[f'{name}.{theirs}.weight'][:, :, 0, 0].T
    assert_array_equal(block[ours]['kernel'], weight)
    assert_array_equal(block[ours]['bias'], agw[f'{name}.{theirs}.bias'])
  assert_array_equal(block['norm']['scale'], agw[f'{name}.W.1.weight'])
  head = filled['params']['head']
  assert_array_equal(head['neck']['scale'], agw['bottleneck.weight'])
  assert_array_equal(head['classifier']['kernel'], agw['classifier.weight'].T)
  assert_array_equal(
    stats['head']['neck']['var'], agw['bottleneck.running_var']
  )
  leaves = jax.tree.leaves(filled)
  assert not any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)


def test_lupi_is_filled_whole(lupi):
  shapes = _shapes('LUPI', stem_relu=False)
  filled = pretrained.fill_network(shapes, lupi, _backbone('LUPI'))
  backbone = filled['params']['backbone']
  for stream in STREAMS['LUPI']:
    prefix = f'{MODULES[stream]}_module.resnet_part1'
    kernel = lupi[f'{prefix}.0.weight'].transpose(2, 3, 1, 0)
    assert_array_equal(backbone[f'{stream}_stage0']['conv']['kernel'], kernel)
    assert_array_equal(
      backbone[f'{stream}_stage1']['block1']['norm1']['scale'],
      lupi[f'{prefix}.3.1.bn1.weight'],
    )
  for stage in (2, 3, 4):
    name = f'base_resnet.resnet_part2.{stage - 2}.0.downsample.1'
    assert_array_equal(
      filled['batch_stats']['backbone'][f'stage{stage}']['block0'][
        'shortcut_norm'
      ]['var'],
      lupi[f'{name}.running_var'],
    )
  leaves = jax.tree.leaves(filled)
  assert not any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)


def test_what_is_left_out_is_said(agw, monkeypatch):
  lines = []
  monkeypatch.setattr(absl_logging, 'info', lines.append)
  shapes = _shapes('AGW', classes=9)
  filled = pretrained.fill_network(shapes, agw, _backbone('AGW'))
  kernel = filled['params']['head']['classifier']['kernel']
  assert isinstance(kernel, jax.ShapeDtypeStruct)
  assert kernel.shape == (512, 9)
  *unused, classifier = lines
  assert classifier == (
    'classifier.weight: left out, of another number of classes'
  )
  stem = 5  # convolution, and four of its BatchNorm
  rest = len(_resnet18(0)) - sum('num_b' in n for n in _resnet18(0)) - stem
  assert len(unused) == 2 * rest + stem
  for name in (
    'visible_module.visible.layer4.1.bn2.weight',
    'thermal_module.thermal.layer1.0.conv1.weight',
    'base_resnet.base.conv1.weight',
  ):
    assert f'{name}: stored by AGW, never used' in unused


@pytest.mark.parametrize(
  ('layout', 'changes', 'message'),
  [
    ('AGW', {'stem_relu': False}, 'backbone.stem_relu=True, not False'),
    ('LUPI', {'stem_relu': True}, 'backbone.stem_relu=False, not True'),
    ('AGW', {'last_stride': 2}, 'backbone.last_stride=1, not 2'),
    ('AGW', {'name': 'swin_tiny'}, "backbone.name is 'swin_tiny'"),
  ],
)
def test_fields_without_a_trace_in_the_tensors(
  layout, changes, message, agw, lupi
):
  state = agw if layout == 'AGW' else lupi
  with pytest.raises(ValueError, match=message) as error:
    pretrained.fill_network(
      _shapes(layout), state, _backbone(layout, **changes)
    )
  assert f'released {layout} network' in str(error.value)


def test_the_usual_last_stride_may_be_left_open(agw):
  backbone = _backbone('AGW', last_stride=None)
  pretrained.check_network(_shapes('AGW'), agw, backbone)


def test_other_streams_are_refused(agw, lupi):
  for state, layout, shapes, config in (
    (agw, 'AGW', _shapes('AGW', split=2), 'configs/baseline.py'),
    (agw, 'AGW', _shapes('AGW', split=0), 'configs/baseline.py'),
    (lupi, 'LUPI', _shapes('AGW', split=2), 'configs/lupi.py'),
    (agw, 'AGW', _shapes('LUPI'), 'configs/baseline.py'),
  ):
    with pytest.raises(ValueError, match=r'private stages') as error:
      pretrained.check_network(shapes, state, _backbone(layout))
    assert f'use --config={config} and method.split=' in str(error.value)


def test_one_error_lists_every_problem(agw):
  state = dict(agw)
  del state['visible_module.visible.conv1.weight']
  state['base_resnet.base.layer1.0.conv1.weight'] = np.zeros((3, 3))
  state['extra.weight'] = np.zeros(2)
  state['bottleneck.bias'] = np.linspace(-0.5, 0.25, 512)
  state['visible_module.visible.conv1.weight'] = np.zeros((64, 3, 5, 5))
  with pytest.raises(ValueError, match='4 problems') as error:
    pretrained.fill_network(_shapes('AGW'), state, _backbone('AGW'))
  for line in (
    'bottleneck.bias: up to 0.5, but a BNNeck has none',
    'visible_module.visible.conv1.weight: shape (64, 3, 5, 5), expected',
    'base_resnet.base.layer1.0.conv1.weight: shape (3, 3), expected (64, 64,',
    'extra.weight: not part of the network',
    'inspect FILE',
  ):
    assert line in str(error.value)


def test_nonlocal_blocks_of_either_width(agw):
  wide = _released('AGW', width=0)
  intended = _shapes('AGW', nonlocal_width='intended')
  filled = pretrained.fill_network(intended, wide, _backbone('AGW'))
  theta = filled['params']['backbone']['stage2']['nonlocal0']['theta']
  assert theta['kernel'].shape == (128, 64)
  for shapes, state in ((intended, agw), (_shapes('AGW'), wide)):
    with pytest.raises(ValueError, match=r"backbone.nonlocal_width='released'"):
      pretrained.check_network(shapes, state, _backbone('AGW'))


def test_nonlocal_blocks_too_many_or_too_few(agw):
  without = _shapes('AGW', nonlocal_blocks=False)
  with pytest.raises(ValueError, match=r'nonlocal_blocks=True has') as error:
    pretrained.check_network(without, agw, _backbone('AGW'))
  assert 'NL_3.1.W.1.running_var: not part of the network' in str(error.value)
  plain = {n: v for n, v in agw.items() if not n.startswith('NL_')}
  pretrained.check_network(without, plain, _backbone('AGW'))
  with pytest.raises(ValueError, match=r'nonlocal_blocks=False leaves'):
    pretrained.check_network(_shapes('AGW'), plain, _backbone('AGW'))


def test_stages_alone_are_no_network():
  with pytest.raises(ValueError, match=r'belong into backbone\.pretrained'):
    pretrained.check_network(_shapes('AGW'), _resnet18(0), _backbone('AGW'))
  assert pretrained.layout_of(_resnet18(0)) is None


def test_what_a_file_is(agw, lupi):
  for state, name, config in (
    (agw, 'AGW', 'configs/baseline.py'),
    (lupi, 'LUPI', 'configs/lupi.py'),
  ):
    found = match.best_match(state)
    assert not found.problems
    assert found.description == (
      f'the released {name} network on resnet18, 6 classes'
    )
    for flag in (
      f'--config={config} ',
      '--config.backbone.name=resnet18 ',
      f'--config.backbone.stem_relu={name == "AGW"} ',
      '--config.backbone.nonlocal_width=released ',
      '--config.weights=FILE --mode=evaluate',
    ):
      assert flag in found.usage
  assert match.best_match({'w': np.zeros(3)}) is None
