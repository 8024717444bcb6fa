import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose

from jaxreid.models.densenet import DenseStage, densenet_stages
from jaxreid.models.streams import MultiStream, count_parameters

STREAMS = ('visible', 'infrared')


def _shapes(size, split=0, **options):
  """(parameters, output shapes), without computing anything."""
  streams = STREAMS if split else STREAMS[:1]
  stages = densenet_stages('densenet121', **options)
  network = MultiStream(stages, split, streams)
  images = {s: jnp.zeros((2, *size, 3)) for s in streams}
  output, variables = jax.eval_shape(
    lambda key: network.init_with_output(key, images, train=False),
    jax.random.key(0),
  )
  return variables['params'], [x.shape for x in output]


@pytest.mark.parametrize(
  ('size', 'last_stride', 'sizes'),
  [
    ((224, 224), 2, ((56, 56), (28, 28), (14, 14), (7, 7), (7, 7))),
    ((288, 144), 1, ((72, 36), (36, 18), (18, 9), (18, 9), (18, 9))),
    ((288, 144), 2, ((72, 36), (36, 18), (18, 9), (9, 4), (9, 4))),
  ],
)
def test_paper_sizes(size, last_stride, sizes):
  params, shapes = _shapes(size, last_stride=last_stride)
  # torchvision's count, less that of the classifier.
  assert count_parameters(params) == 7_978_856 - 1_025_000
  channels = (64, 128, 256, 512, 1024)
  assert shapes == [(2, *s, c) for s, c in zip(sizes, channels, strict=True)]


@pytest.mark.parametrize('split', [2, 5])
def test_private_stages(split):
  params, shapes = _shapes((96, 48), split)
  private = {f'{s}_stage{i}' for s in STREAMS for i in range(split)}
  assert set(params) == private | {f'stage{i}' for i in range(split, 5)}
  assert shapes[-1] == (4, 6, 3, 1024)


def test_unknown_name():
  with pytest.raises(ValueError, match="'densenet12'; known are densenet121"):
    densenet_stages('densenet12')


def _variables(stage, x, seed=0):
  """Random ones, none of which is without effect."""
  shapes = jax.eval_shape(
    lambda key: stage.init(key, x, train=False), jax.random.key(0)
  )
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda s: (
      rng.uniform(0.5, 1.5, s.shape).astype('f4')
      if len(s.shape) == 1
      else rng.normal(0, s.shape[-2] ** -0.5, s.shape).astype('f4')
    ),
    shapes,
  )


def _apply(stage, variables, x):
  return jax.jit(lambda v, x: stage.apply(v, x, train=False))(variables, x)


def _norm_relu(x, variables, *path):
  scale, mean = variables['params'], variables['batch_stats']
  for key in path:
    scale, mean = scale[key], mean[key]
  y = (x - mean['mean']) / np.sqrt(mean['var'] + 1e-5)
  return np.maximum(y * scale['scale'] + scale['bias'], 0)


def _conv3x3(x, kernel):
  height, width, _ = x.shape
  x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
  y = np.zeros((height, width, kernel.shape[-1]))
  for i in range(height):
    for j in range(width):
      patch = x[i : i + 3, j : j + 3]
      y[i, j] = np.einsum('hwc,hwco->o', patch, kernel)
  return y


@pytest.mark.parametrize('stride', [1, 2, None])
def test_stage_against_plain_loops(stride):
  x = jax.random.normal(jax.random.key(1), (1, 5, 4, 3))
  stage = DenseStage(layers=2, growth=3, stride=stride)
  variables = _variables(stage, x)
  params = variables['params']
  expected = np.asarray(x[0])
  for name in ('layer0', 'layer1'):
    y = _norm_relu(expected, variables, name, 'norm1')
    y = y @ params[name]['conv1']['kernel']
    y = _norm_relu(y, variables, name, 'norm2')
    y = _conv3x3(y, params[name]['conv2']['kernel'])
    expected = np.concatenate([expected, y], -1)
  if stride is None:
    expected = _norm_relu(expected, variables, 'norm')
  else:
    expected = _norm_relu(expected, variables, 'transition', 'norm')
    expected = expected @ params['transition']['conv']['kernel']
  if stride == 2:
    pooled = np.zeros((2, 2, 4))
    for i in range(2):
      for j in range(2):
        window = expected[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        pooled[i, j] = window.mean((0, 1))
    expected = pooled
  y = _apply(stage, variables, x)
  assert_allclose(y[0], expected, rtol=1e-4, atol=1e-5)


def _gradient(module, variables, x):
  def loss(params):
    y, updated = module.apply(
      {**variables, 'params': params}, x, train=True, mutable=['batch_stats']
    )
    return jnp.mean(jnp.square(y)).astype(jnp.float32), updated

  return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables['params'])


def test_remat_changes_nothing():
  x = jax.random.normal(jax.random.key(1), (4, 4, 6, 8))
  plain = DenseStage(layers=2, growth=4)
  remat = DenseStage(layers=2, growth=4, remat=True)
  variables = _variables(plain, x)
  a, b = (_gradient(stage, variables, x) for stage in (plain, remat))
  assert jax.tree.structure(a) == jax.tree.structure(b)
  assert_allclose(ravel_pytree(a)[0], ravel_pytree(b)[0], rtol=1e-3, atol=1e-6)

  def jaxpr(stage):
    return str(jax.make_jaxpr(lambda v: _gradient(stage, v, x))(variables))

  assert 'remat' in jaxpr(remat) and 'remat' not in jaxpr(plain)


def test_bfloat16_keeps_float32_parameters():
  x = jax.random.normal(jax.random.key(1), (4, 4, 6, 8))
  full = DenseStage(layers=2, growth=4)
  half = DenseStage(layers=2, growth=4, dtype=jnp.bfloat16)
  variables = _variables(half, x)
  a, b = (_apply(stage, variables, x) for stage in (full, half))
  assert b.dtype == jnp.bfloat16
  error = jnp.abs(b.astype(jnp.float32) - a).mean() / jnp.abs(a).mean()
  assert 0 < error < 0.05
  (_, updated), gradient = _gradient(half, variables, x)
  for leaf in jax.tree.leaves((updated, gradient)):
    assert leaf.dtype == jnp.float32
    assert jnp.isfinite(leaf).all()


def test_initial_weights_are_kaiming_fan_in():
  stem = densenet_stages('densenet121')[0]('stage0')
  variables = jax.jit(
    lambda key: stem.init(key, jnp.zeros((1, 8, 8, 3)), False)
  )(jax.random.key(0))
  kernel = variables['params']['conv']['kernel']
  assert_allclose(kernel.std(), (2 / (49 * 3)) ** 0.5, rtol=0.03)
  stage = DenseStage(layers=1, growth=32, stride=None)
  variables = jax.jit(
    lambda key: stage.init(key, jnp.zeros((1, 4, 4, 64)), False)
  )(jax.random.key(0))
  layer = variables['params']['layer0']
  assert_allclose(layer['conv1']['kernel'].std(), (2 / 64) ** 0.5, rtol=0.05)
  assert_allclose(
    layer['conv2']['kernel'].std(), (2 / (9 * 128)) ** 0.5, rtol=0.03
  )
