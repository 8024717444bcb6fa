import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose

from jaxreid.models.head import Head
from jaxreid.models.streams import (
  EmbeddingNetwork,
  MultiStream,
  count_parameters,
)
from jaxreid.models.swin import (
  Mlp,
  PatchMerging,
  SwinBlock,
  SwinStage,
  swin_stages,
)


def _shapes(name, size):
  """(parameters, output shapes), without computing anything."""
  network = MultiStream(swin_stages(name), 0, ('visible',))
  images = {'visible': jnp.zeros((2, *size, 3))}
  output, variables = jax.eval_shape(
    lambda key: network.init_with_output(key, images, train=False),
    jax.random.key(0),
  )
  assert 'batch_stats' not in variables
  return variables['params'], [x.shape for x in output]


# Published counts, less those of the classifier.
@pytest.mark.parametrize(
  ('name', 'parameters', 'width'),
  [
    ('swin_tiny', 28_288_354 - 769_000, 96),
    ('swin_small', 49_606_258 - 769_000, 96),
    ('swin_base', 87_768_224 - 1_025_000, 128),
  ],
)
def test_published_sizes(name, parameters, width):
  params, shapes = _shapes(name, (224, 224))
  assert count_parameters(params) == parameters
  assert shapes == [
    (2, side, side, width * factor)
    for side, factor in ((56, 1), (28, 2), (14, 4), (7, 8), (7, 8))
  ]


@pytest.mark.parametrize('size', [(288, 144), (256, 128), (97, 45)])
@pytest.mark.parametrize('name', ['swin_tiny', 'swin_mini'])
def test_any_size_of_image(name, size):
  _, shapes = _shapes(name, size)
  for i, shape in enumerate(shapes):
    scale = 4 * 2 ** min(i, 3)
    assert shape[1:3] == tuple(math.ceil(n / scale) for n in size)


def test_unknown_name():
  with pytest.raises(ValueError, match='known are swin_mini, swin_tiny'):
    swin_stages('swin')


def _init(module, *args):
  return jax.jit(lambda key: module.init(key, *args))(jax.random.key(0))


def _apply(module, variables, *args, **options):
  return jax.jit(lambda v: module.apply(v, *args, **options))(variables)


def _random(variables, seed=0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.uniform(-0.5, 0.5, x.shape), jnp.float32),
    variables,
  )


def test_patch_merging_against_plain_loops():
  x = jax.random.normal(jax.random.key(1), (1, 3, 5, 2))
  merging = PatchMerging()
  variables = _random(_init(merging, x))
  params = variables['params']
  y = _apply(merging, variables, x)
  assert y.shape == (1, 2, 3, 4)
  padded = np.zeros((4, 6, 2))
  padded[:3, :5] = x[0]
  for i in range(2):
    for j in range(3):
      corners = [(0, 0), (1, 0), (0, 1), (1, 1)]
      merged = np.concatenate(
        [padded[2 * i + di, 2 * j + dj] for di, dj in corners]
      )
      merged = (merged - merged.mean()) / np.sqrt(merged.var() + 1e-5)
      merged = merged * params['norm']['scale'] + params['norm']['bias']
      expected = merged @ params['reduction']['kernel']
      assert_allclose(y[0, i, j], expected, rtol=1e-4, atol=1e-5)


def test_mlp_has_the_exact_gelu():
  x = jnp.linspace(-3, 3, 8).reshape(1, 2, 2, 2)
  variables = _random(_init(Mlp(), x))
  params = jax.tree.map(np.asarray, variables['params'])
  hidden = np.asarray(x) @ params['fc1']['kernel'] + params['fc1']['bias']
  hidden = np.vectorize(lambda v: v * (1 + math.erf(v / 2**0.5)) / 2)(hidden)
  expected = hidden @ params['fc2']['kernel'] + params['fc2']['bias']
  assert_allclose(Mlp().apply(variables, x), expected, rtol=1e-4, atol=1e-5)


def test_every_second_block_is_shifted():
  # 4x4 tokens in windows of 2: a change in one corner stays in its window
  # after the first block, and leaves it in the second.
  x = jax.random.normal(jax.random.key(1), (1, 4, 4, 4))
  changed = x.at[0, 0, 0, 0].add(1)
  for blocks, reached in ((1, {0, 1}), (2, {0, 1, 2})):
    stage = SwinStage(heads=2, window=2, drop_path=(0.0,) * blocks, last=True)
    variables = _random(_init(stage, x, False))
    a, b = (_apply(stage, variables, v, train=False) for v in (x, changed))
    rows = {int(i) for i in np.nonzero(np.abs(a - b)[0].max((1, 2)) > 1e-6)[0]}
    assert rows == reached


def test_drop_path_skips_branches_and_scales_what_is_kept():
  image = jax.random.normal(jax.random.key(1), (1, 2, 2, 4))
  x = jnp.tile(image, (200, 1, 1, 1))
  block = SwinBlock(heads=2, window=2, shift=0, drop_path=0.75)
  variables = _random(_init(block, x, False))
  y = _apply(
    block, variables, x, train=True, rngs={'drop_path': jax.random.key(2)}
  )
  params = variables['params']
  norm = nn.LayerNorm(epsilon=1e-5).apply({'params': params['norm2']}, image)
  second = image + 4 * Mlp().apply({'params': params['mlp']}, norm)

  def share(expected):
    return jnp.mean(jnp.abs(y - expected).max((1, 2, 3)) < 1e-4)

  assert_allclose(share(image), 0.75**2, atol=0.1)
  assert_allclose(share(second), 0.75 * 0.25, atol=0.08)
  # Not at test, and without a rate no key is asked for.
  at_test = _apply(block, variables, x, train=False)
  plain = SwinBlock(heads=2, window=2, shift=0)
  assert_allclose(at_test, _apply(plain, variables, x, train=True), rtol=1e-5)


def test_drop_path_grows_over_the_blocks():
  stages = swin_stages('swin_mini', drop_path=0.4)
  rates = [r for i in range(1, 5) for r in stages[i](f'stage{i}').drop_path]
  assert_allclose(rates, np.arange(5) / 10)


def _gradient(module, variables, x):
  def loss(params):
    y = module.apply({'params': params}, x, train=True)
    return jnp.mean(jnp.square(jnp.sin(y))).astype(jnp.float32)

  return jax.jit(jax.value_and_grad(loss))(variables['params'])


def test_remat_changes_nothing():
  x = jax.random.normal(jax.random.key(1), (2, 5, 4, 8))
  options = dict(heads=2, window=3, drop_path=(0.0, 0.0))
  plain, remat = SwinStage(**options), SwinStage(**options, remat=True)
  variables = _random(_init(plain, x, False))
  a, b = (_gradient(stage, variables, x) for stage in (plain, remat))
  assert jax.tree.structure(a) == jax.tree.structure(b)
  assert_allclose(ravel_pytree(a)[0], ravel_pytree(b)[0], rtol=1e-3, atol=1e-6)
  assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(a))

  def jaxpr(stage):
    return str(jax.make_jaxpr(lambda v: _gradient(stage, v, x))(variables))

  assert 'remat' in jaxpr(remat) and 'remat' not in jaxpr(plain)


def test_bfloat16_keeps_float32_parameters():
  x = jax.random.normal(jax.random.key(1), (2, 5, 4, 8))
  options = dict(heads=2, window=3, drop_path=(0.0,))
  full, half = SwinStage(**options), SwinStage(**options, dtype=jnp.bfloat16)
  variables = _random(_init(half, x, False))
  a, b = (_apply(stage, variables, x, train=False) for stage in (full, half))
  assert b.dtype == jnp.bfloat16
  error = jnp.abs(b.astype(jnp.float32) - a).mean() / jnp.abs(a).mean()
  assert 0 < error < 0.05
  for leaf in jax.tree.leaves(_gradient(half, variables, x)):
    assert leaf.dtype == jnp.float32
    assert jnp.isfinite(leaf).all()


def test_initial_weights():
  embedding, stage, *_ = swin_stages('swin_tiny')
  images = jnp.zeros((1, 8, 8, 3))
  kernel = _init(embedding('stage0'), images, False)['params']['proj']['kernel']
  assert_allclose(np.abs(kernel).max(), 48**-0.5, rtol=0.01)
  params = _init(stage('stage1'), jnp.zeros((1, 2, 2, 96)), False)['params']
  attention = params['block0']['attention']
  assert_allclose(attention['qkv']['kernel'].std(), 0.02, rtol=0.03)
  table = attention['relative_position_bias_table']
  assert_allclose(table.std(), 0.02, rtol=0.15)
  assert not attention['qkv']['bias'].any()


def test_a_whole_network_has_the_heads_statistics_alone():
  images = {'visible': jnp.zeros((4, 96, 48, 3))}
  backbone = MultiStream(swin_stages('swin_mini'), 0, ('visible',))
  network = EmbeddingNetwork(backbone, Head(5, pool='average'))
  variables = jax.eval_shape(
    lambda key: network.init(key, images, train=False), jax.random.key(0)
  )
  output, updated = jax.eval_shape(
    lambda v: network.apply(v, images, train=True, mutable=['batch_stats']),
    variables,
  )
  assert output.pooled['visible'].shape == (4, 256)
  assert updated['batch_stats'] == variables['batch_stats']
  assert set(updated['batch_stats']) == {'head'}
