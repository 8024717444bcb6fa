import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose

from jaxreid.models.resnet import (
  BasicBlock,
  Bottleneck,
  ResidualStage,
  Stem,
  resnet_stages,
)
from jaxreid.models.streams import MultiStream, count_parameters


def _network(name, **options):
  return MultiStream(resnet_stages(name, **options), 0, ('visible',))


def _shapes(network, size=(64, 32)):
  """(parameters, output shapes), without computing anything."""
  images = {'visible': jnp.zeros((2, *size, 3))}
  output, variables = jax.eval_shape(
    lambda key: network.init_with_output(key, images, train=False),
    jax.random.key(0),
  )
  return variables['params'], [x.shape for x in output]


# torchvision's counts, less those of the classifier.
@pytest.mark.parametrize(
  ('name', 'parameters', 'channels'),
  [
    ('resnet18', 11_176_512, (64, 64, 128, 256, 512)),
    ('resnet34', 21_284_672, (64, 64, 128, 256, 512)),
    ('resnet50', 23_508_032, (64, 256, 512, 1024, 2048)),
    ('resnet101', 42_500_160, (64, 256, 512, 1024, 2048)),
  ],
)
def test_paper_sizes(name, parameters, channels):
  params, shapes = _shapes(_network(name), (288, 144))
  assert count_parameters(params) == parameters
  sizes = ((72, 36), (72, 36), (36, 18), (18, 9), (18, 9))
  assert shapes == [
    (2, *size, c) for size, c in zip(sizes, channels, strict=True)
  ]


def test_small_and_last_stride():
  params, shapes = _shapes(_network('resnet_small', last_stride=2), (96, 48))
  assert shapes[0] == (2, 24, 12, 32)
  assert shapes[-1] == (2, 3, 2, 256)
  assert set(params['stage1']) == {'block0'}
  assert 'shortcut' not in params['stage1']['block0']
  assert 'shortcut' in params['stage4']['block0']


def test_unknown_name():
  with pytest.raises(ValueError, match='resnet_small, resnet18'):
    resnet_stages('resnet19')


def test_places_of_the_nonlocal_blocks():
  plain, _ = _shapes(_network('resnet50'))
  params, _ = _shapes(_network('resnet50', nonlocal_blocks=True))
  found = {s: [k for k in sorted(v) if 'nonl' in k] for s, v in params.items()}
  assert found == {
    'stage0': [],
    'stage1': [],
    'stage2': ['nonlocal0', 'nonlocal1'],
    'stage3': ['nonlocal0', 'nonlocal1', 'nonlocal2'],
    'stage4': [],
  }
  # Per block of C channels: 3 (C + 1), 2 C and BatchNorm's 2 C.
  added = 2 * (7 * 512 + 3) + 3 * (7 * 1024 + 3)
  assert count_parameters(params) == count_parameters(plain) + added
  small, _ = _shapes(_network('resnet_small', nonlocal_blocks=True))
  assert 'nonlocal0' in small['stage3'] and 'nonlocal1' not in small['stage3']


def test_stem_against_plain_loops():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(1, 9, 7, 3)).astype('float32')
  kernel = rng.normal(size=(7, 7, 3, 2)).astype('float32')
  norm = {'scale': jnp.ones(2), 'bias': jnp.zeros(2)}
  variables = {
    'params': {'conv': {'kernel': kernel}, 'norm': norm},
    'batch_stats': {'norm': {'mean': jnp.zeros(2), 'var': jnp.ones(2)}},
  }
  padded = np.pad(x[0], ((3, 3), (3, 3), (0, 0)))
  conv = np.zeros((5, 4, 2))
  for i in range(5):
    for j in range(4):
      patch = padded[2 * i : 2 * i + 7, 2 * j : 2 * j + 7]
      conv[i, j] = np.einsum('hwc,hwco->o', patch, kernel)
  conv /= np.sqrt(1 + 1e-5)
  for relu in (True, False):
    y = Stem(2, relu).apply(variables, jnp.asarray(x), train=False)
    values = np.maximum(conv, 0) if relu else conv
    values = np.pad(values, ((1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    for i in range(3):
      for j in range(2):
        window = values[2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        assert_allclose(y[0, i, j], window.max((0, 1)), rtol=1e-4, atol=1e-4)


def _init(module, x):
  return jax.jit(lambda key: module.init(key, x, train=False))(
    jax.random.key(0)
  )


def _gradient(module, variables, x):
  def loss(params):
    y, updated = module.apply(
      {**variables, 'params': params}, x, train=True, mutable=['batch_stats']
    )
    return jnp.mean(jnp.square(y)).astype(jnp.float32), updated

  return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables['params'])


def test_remat_changes_nothing():
  x = jax.random.normal(jax.random.key(1), (4, 4, 6, 8))
  options = dict(width=8, blocks=2, stride=2, nonlocal_blocks=1)
  plain = ResidualStage(BasicBlock, **options)
  remat = ResidualStage(BasicBlock, **options, remat=True)
  variables = _init(plain, x)
  a, b = (_gradient(stage, variables, x) for stage in (plain, remat))
  assert jax.tree.structure(a) == jax.tree.structure(b)
  assert_allclose(ravel_pytree(a)[0], ravel_pytree(b)[0], rtol=1e-3, atol=1e-6)

  def jaxpr(stage):
    return str(jax.make_jaxpr(lambda v: _gradient(stage, v, x))(variables))

  assert 'remat' in jaxpr(remat) and 'remat' not in jaxpr(plain)


@pytest.mark.parametrize('block', [BasicBlock, Bottleneck])
def test_bfloat16_keeps_float32_parameters(block):
  x = jax.random.normal(jax.random.key(1), (4, 4, 6, 8))
  full = ResidualStage(block, 4, 1, 2, nonlocal_blocks=1)
  half = ResidualStage(block, 4, 1, 2, nonlocal_blocks=1, dtype=jnp.bfloat16)
  variables = _init(half, x)
  a = full.apply(variables, x, train=False)
  b = half.apply(variables, x, train=False)
  assert b.dtype == jnp.bfloat16
  error = jnp.abs(b.astype(jnp.float32) - a).mean() / a.mean()
  assert 0 < error < 0.05
  (_, updated), gradient = _gradient(half, variables, x)
  for leaf in jax.tree.leaves((variables, updated, gradient)):
    assert leaf.dtype == jnp.float32
    assert jnp.isfinite(leaf).all()


def test_initial_weights_are_kaiming_fan_out():
  stem = _init(Stem(), jnp.zeros((1, 8, 8, 3)))['params']
  assert_allclose(
    stem['conv']['kernel'].std(), (2 / (49 * 64)) ** 0.5, rtol=0.05
  )
  stage = ResidualStage(Bottleneck, 64, 1, 1)
  block = _init(stage, jnp.zeros((1, 4, 4, 64)))['params']['block0']
  assert_allclose(block['conv3']['kernel'].std(), (2 / 256) ** 0.5, rtol=0.03)
  assert_allclose(
    block['conv2']['kernel'].std(), (2 / (9 * 64)) ** 0.5, rtol=0.03
  )
