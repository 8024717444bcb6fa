import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose

from jaxreid.models.batch_norm import BatchNorm


def _apply(x, module=None):
  module = module or BatchNorm()
  variables = module.init(jax.random.key(0), x, train=False)
  return module.apply(variables, x, train=True, mutable=['batch_stats'])


def test_by_hand():
  # Mean 4, biased variance 26 / 3, unbiased 13.
  x = jnp.array([[1.0], [3.0], [8.0]])
  y, updated = _apply(x)
  expected = [d / np.sqrt(26 / 3 + 1e-5) for d in (-3, -1, 4)]
  assert_allclose(y[:, 0], expected, rtol=1e-6)
  assert_allclose(updated['batch_stats']['mean'], [0.4], rtol=1e-6)
  assert_allclose(updated['batch_stats']['var'], [0.9 + 1.3], rtol=1e-6)


def test_feature_map_against_a_loop():
  x = np.random.default_rng(0).normal(3, 2, (2, 3, 4, 5)).astype('float32')
  y, updated = _apply(jnp.asarray(x))
  for c in range(5):
    values = [float(v) for v in x[..., c].ravel()]
    mean = sum(values) / len(values)
    squares = sum((v - mean) ** 2 for v in values)
    scale = (squares / len(values) + 1e-5) ** 0.5
    assert_allclose(y[..., c], (x[..., c] - mean) / scale, atol=1e-5)
    running = 0.9 + 0.1 * squares / (len(values) - 1)
    assert_allclose(updated['batch_stats']['var'][c], running, rtol=1e-5)


def test_running_statistics_scale_and_bias_at_test():
  module = BatchNorm()
  variables = {
    'params': {'scale': jnp.array([2.0]), 'bias': jnp.array([0.5])},
    'batch_stats': {'mean': jnp.array([1.0]), 'var': jnp.array([4.0])},
  }
  y = module.apply(variables, jnp.array([[5.0]]), train=False)
  assert_allclose(y, [[2 * 4 / np.sqrt(4 + 1e-5) + 0.5]], rtol=1e-6)


def test_a_large_mean_does_not_swallow_the_variance():
  x = jnp.array([[10000.0], [10001.0], [10002.0]])
  y, _ = _apply(x)
  assert_allclose(y[:, 0], [-1.2247, 0, 1.2247], atol=1e-3)


def test_options():
  module = BatchNorm(use_bias=False, use_scale=False, dtype=jnp.bfloat16)
  x = jnp.array([[1.0], [2.0]])
  assert 'params' not in module.init(jax.random.key(0), x, train=True)
  y, updated = _apply(x, module)
  assert y.dtype == jnp.bfloat16
  assert updated['batch_stats']['mean'].dtype == jnp.float32


def test_half_precision_input_has_float32_statistics():
  x = jnp.array([[256.0], [257.0], [259.0]]).astype(jnp.bfloat16)
  _, updated = _apply(x)
  mean = np.mean(np.asarray(x, np.float64))
  assert_allclose(updated['batch_stats']['mean'], [0.1 * mean], rtol=1e-6)


def test_one_value_per_channel_is_refused():
  with pytest.raises(ValueError, match='at least 2 images'):
    _apply(jnp.ones((1, 3)))


def test_sharded_batch_has_global_statistics():
  with jax.enable_x64(True):
    x = np.random.default_rng(1).normal(size=(16, 3))
    mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec('data')))
    step = jax.jit(_apply)
    for a, b in zip(
      jax.tree.leaves(step(x)), jax.tree.leaves(step(sharded)), strict=True
    ):
      assert_allclose(a, b, atol=1e-6)
    assert step(x)[0].dtype == jnp.float64
    assert step(x)[1]['batch_stats']['var'].dtype == jnp.float32
