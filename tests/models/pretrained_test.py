import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging as absl_logging
from numpy.testing import assert_allclose

from jaxreid.models import pretrained
from jaxreid.models.head import Head
from jaxreid.models.resnet import resnet_stages
from jaxreid.models.streams import EmbeddingNetwork, MultiStream

DEPTHS = {'resnet18': (2, 2, 2, 2), 'resnet50': (3, 4, 6, 3)}


def _torch_state_dict(architecture, seed=0):
  """Random tensors under the names and shapes of torchvision."""
  rng = np.random.default_rng(seed)
  bottleneck = architecture == 'resnet50'
  state = {}

  def conv(name, out, inside, size):
    scale = (2 / (inside * size * size)) ** 0.5
    kernel = rng.normal(0, scale, (out, inside, size, size))
    state[f'{name}.weight'] = kernel.astype('float32')

  def norm(name, width):
    for leaf, low in (
      ('weight', 0.5),
      ('bias', -0.5),
      ('running_mean', -1),
      ('running_var', 1),
    ):
      state[f'{name}.{leaf}'] = rng.uniform(low, low + 1, width).astype('f4')
    state[f'{name}.num_batches_tracked'] = np.array(7)

  conv('conv1', 64, 3, 7)
  norm('bn1', 64)
  inside = 64
  for i, depth in enumerate(DEPTHS[architecture]):
    width = 64 * 2**i
    out = 4 * width if bottleneck else width
    for b in range(depth):
      name = f'layer{i + 1}.{b}'
      sizes = (1, 3, 1) if bottleneck else (3, 3)
      widths = (width, width, out)[: len(sizes)]
      channels = inside
      for k, (size, w) in enumerate(zip(sizes, widths, strict=True)):
        conv(f'{name}.conv{k + 1}', w, channels, size)
        norm(f'{name}.bn{k + 1}', w)
        channels = w
      if b == 0 and (i > 0 or bottleneck):
        conv(f'{name}.downsample.0', out, inside, 1)
        norm(f'{name}.downsample.1', out)
      inside = out
  state['fc.weight'] = np.zeros((1000, inside), 'float32')
  state['fc.bias'] = np.zeros(1000, 'float32')
  return state


@pytest.fixture(scope='module')
def resnet18():
  return _torch_state_dict('resnet18')


def _torch_conv(x, weight, stride, padding):
  """x [C, H, W], weight [O, C, k, k], in plain NumPy."""
  k = weight.shape[-1]
  x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
  h = (x.shape[1] - k) // stride + 1
  w = (x.shape[2] - k) // stride + 1
  y = np.zeros((weight.shape[0], h, w))
  for i in range(h):
    for j in range(w):
      patch = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
      y[:, i, j] = np.tensordot(weight, patch, 3)
  return y


def _torch_norm(x, state, name):
  mean, var, weight, bias = (
    state[f'{name}.{leaf}'][:, None, None]
    for leaf in ('running_mean', 'running_var', 'weight', 'bias')
  )
  return (x - mean) / np.sqrt(var + 1e-5) * weight + bias


def _torch_basic_block(x, state, name, stride):
  y = _torch_conv(x, state[f'{name}.conv1.weight'], stride, 1)
  y = np.maximum(_torch_norm(y, state, f'{name}.bn1'), 0)
  y = _torch_conv(y, state[f'{name}.conv2.weight'], 1, 1)
  y = _torch_norm(y, state, f'{name}.bn2')
  if f'{name}.downsample.0.weight' in state:
    x = _torch_conv(x, state[f'{name}.downsample.0.weight'], stride, 0)
    x = _torch_norm(x, state, f'{name}.downsample.1')
  return np.maximum(x + y, 0)


def _torch_bottleneck(x, state, name, stride):
  y = _torch_conv(x, state[f'{name}.conv1.weight'], 1, 0)
  y = np.maximum(_torch_norm(y, state, f'{name}.bn1'), 0)
  y = _torch_conv(y, state[f'{name}.conv2.weight'], stride, 1)
  y = np.maximum(_torch_norm(y, state, f'{name}.bn2'), 0)
  y = _torch_conv(y, state[f'{name}.conv3.weight'], 1, 0)
  y = _torch_norm(y, state, f'{name}.bn3')
  if f'{name}.downsample.0.weight' in state:
    x = _torch_conv(x, state[f'{name}.downsample.0.weight'], stride, 0)
    x = _torch_norm(x, state, f'{name}.downsample.1')
  return np.maximum(x + y, 0)


@pytest.mark.parametrize('architecture', ['resnet18', 'resnet50'])
def test_converted_stem_and_stage_equal_plain_numpy(architecture):
  state = _torch_state_dict(architecture)
  converted = pretrained.convert(state, architecture)
  rng = np.random.default_rng(1)
  stages = resnet_stages(architecture)

  def apply(i, x):
    variables = {c: tree[f'stage{i}'] for c, tree in converted.items()}
    x = jnp.asarray(x.transpose(1, 2, 0)[None])
    y = stages[i](f'stage{i}').apply(variables, x, train=False)
    return np.asarray(y[0]).transpose(2, 0, 1)

  image = rng.normal(size=(3, 9, 6)).astype('float32')
  stem = _torch_conv(image, state['conv1.weight'], 2, 3)
  stem = np.maximum(_torch_norm(stem, state, 'bn1'), 0)
  # Max-pooling after a ReLU: a border of zeros changes nothing.
  stem = np.pad(stem, ((0, 0), (1, 1), (1, 1)))
  result = apply(0, image)
  for i in range(result.shape[1]):
    for j in range(result.shape[2]):
      window = stem[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
      assert_allclose(result[:, i, j], window.max((1, 2)), atol=1e-4)

  bottleneck = architecture == 'resnet50'
  block = _torch_bottleneck if bottleneck else _torch_basic_block
  inside = 256 if bottleneck else 64
  x = expected = rng.normal(size=(inside, 5, 4)).astype('float32')
  for b in range(DEPTHS[architecture][1]):
    expected = block(expected, state, f'layer2.{b}', 2 if b == 0 else 1)
  result = apply(2, x)
  assert result.shape == expected.shape == (2 * inside, 3, 2)
  scale = np.abs(expected).max()
  assert_allclose(result / scale, expected / scale, atol=1e-5)


def test_every_tensor_arrives_once(resnet18):
  converted = pretrained.convert(resnet18, 'resnet18')
  used = [v for k, v in resnet18.items() if 'fc.' not in k and 'num_' not in k]
  leaves = jax.tree.leaves(converted)
  assert len(leaves) == len(used)
  total = sum(float(np.sum(np.square(v, dtype=np.float64))) for v in used)
  ours = sum(
    float(np.sum(np.square(v, dtype=np.float64)))
    for v in map(np.asarray, leaves)
  )
  assert_allclose(ours, total, rtol=1e-6)


def test_the_classifier_is_left_out_and_said_so(resnet18, monkeypatch):
  lines = []
  monkeypatch.setattr(
    absl_logging, 'info', lambda text, *args: lines.append(text % args)
  )
  pretrained.convert(resnet18, 'resnet18')
  assert lines == ['left out the ImageNet classifier: fc.weight, fc.bias']


def test_one_error_lists_every_problem(resnet18):
  state = dict(resnet18)
  del state['conv1.weight'], state['layer3.0.bn1.running_var']
  state['layer2.0.downsample.0.weight'] = np.zeros((128, 64, 3, 3))
  state['extra.weight'] = np.zeros(3)
  with pytest.raises(ValueError, match='4 problems') as error:
    pretrained.convert(state, 'resnet18')
  for line in (
    'conv1.weight: missing',
    'layer3.0.bn1.running_var: missing',
    'layer2.0.downsample.0.weight: shape (128, 64, 3, 3), '
    'expected (128, 64, 1, 1)',
    'extra.weight: not part of resnet18',
  ):
    assert line in str(error.value)
  with pytest.raises(ValueError, match='Unknown backbone'):
    pretrained.convert(resnet18, 'vgg')


def _network(split=2, nonlocal_blocks=False):
  streams = ('visible', 'infrared')
  stages = resnet_stages('resnet18', nonlocal_blocks=nonlocal_blocks)
  network = EmbeddingNetwork(MultiStream(stages, split, streams), Head(5))
  images = {s: jnp.zeros((2, 32, 16, 3)) for s in streams}
  shapes = jax.eval_shape(
    lambda key: network.init(key, images, train=False), jax.random.key(0)
  )
  return jax.tree.map(lambda x: jnp.full(x.shape, 9.0), shapes)


def test_every_private_copy_is_filled(resnet18):
  converted = pretrained.convert(resnet18, 'resnet18')
  variables = _network(nonlocal_blocks=True)
  filled = pretrained.fill_stages(variables, converted)
  assert jax.tree.structure(filled) == jax.tree.structure(variables)
  for collection in ('params', 'batch_stats'):
    backbone = filled[collection]['backbone']
    ours = converted[collection]
    for name, source in {
      'visible_stage0': 'stage0',
      'infrared_stage0': 'stage0',
      'infrared_stage1': 'stage1',
      'stage4': 'stage4',
    }.items():
      jax.tree.map(assert_allclose, backbone[name], ours[source])
    untouched = (backbone['stage2']['nonlocal0'], filled[collection]['head'])
    assert all((v == 9).all() for v in jax.tree.leaves(untouched))


def test_stages_that_do_not_fit(resnet18):
  converted = pretrained.convert(resnet18, 'resnet18')
  del converted['params']['stage3']['block1']['conv2']
  converted['params']['stage7'] = {'kernel': jnp.zeros(3)}
  kernel = converted['params']['stage0']['conv']['kernel']
  converted['params']['stage0']['conv']['kernel'] = kernel[..., :-1]
  with pytest.raises(ValueError, match='4 problems') as error:
    pretrained.fill_stages(_network(), converted)
  for line in (
    'params/backbone/stage3/block1/conv2/kernel: missing',
    'params/backbone/visible_stage0/conv/kernel: shape (7, 7, 3, 63)',
    'params/backbone/infrared_stage0/conv/kernel: shape',
    'params/stage7/kernel: without a place',
  ):
    assert line in str(error.value)
