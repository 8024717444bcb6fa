import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxreid.models.head import Head, generalized_mean


def test_generalized_mean_by_hand():
  x = jnp.array([1.0, 2.0, 0.0, -5.0]).reshape(1, 2, 2, 1)
  assert_allclose(generalized_mean(x), [[(9 / 4) ** (1 / 3)]], rtol=1e-6)


def test_generalized_mean_has_a_finite_gradient_at_zero():
  x = jnp.zeros((2, 3, 2, 4))
  gradient = jax.jit(jax.grad(lambda x: generalized_mean(x).sum()))(x)
  assert_allclose(gradient, np.zeros_like(x))
  assert_allclose(generalized_mean(x), np.full((2, 4), 1e-4), rtol=1e-4)


@pytest.mark.parametrize('pool', ['gem', 'average'])
def test_against_numpy(pool):
  rng = np.random.default_rng(0)
  x = rng.uniform(0, 3, (6, 3, 2, 5)).astype('float32')
  head = Head(num_classes=7, pool=pool)
  variables = head.init(jax.random.key(0), jnp.asarray(x), train=False)
  output, _ = head.apply(
    variables, jnp.asarray(x), train=True, mutable=['batch_stats']
  )
  power = {'gem': 3, 'average': 1}[pool]
  pooled = np.mean(x.astype('float64') ** power, (1, 2)) ** (1 / power)
  assert_allclose(output.pooled, pooled, rtol=1e-5)
  centred = pooled - pooled.mean(0)
  scale = variables['params']['neck']['scale'][None]
  neck = centred / np.sqrt(pooled.var(0) + 1e-5) * scale
  assert_allclose(output.neck, neck, atol=1e-4)
  kernel = variables['params']['classifier']['kernel']
  assert_allclose(output.logits, neck @ kernel, atol=1e-5)


def test_parameters():
  x = jnp.ones((2, 2, 2, 2048))
  params = Head(395).init(jax.random.key(0), x, train=False)['params']
  assert jax.tree.map(jnp.shape, params) == {
    'neck': {'scale': (2048,)},
    'classifier': {'kernel': (2048, 395)},
  }
  assert_allclose(params['classifier']['kernel'].std(), 0.001, rtol=0.01)
  assert_allclose(params['neck']['scale'].mean(), 1, atol=0.001)
  assert_allclose(params['neck']['scale'].std(), 0.01, rtol=0.1)


def test_options():
  x = jax.random.uniform(jax.random.key(1), (2, 2, 2, 8), jnp.bfloat16)
  ones = Head(3, neck_scale_std=0.0)
  params = ones.init(jax.random.key(0), x, train=False)['params']
  assert_allclose(params['neck']['scale'], np.ones(8))
  bare = Head(3, neck=False)
  output, variables = bare.init_with_output(jax.random.key(0), x, train=False)
  assert set(variables['params']) == {'classifier'}
  assert_allclose(output.neck, output.pooled)
  assert all(o.dtype == jnp.float32 for o in output)
  with pytest.raises(ValueError, match="'gem' or 'average'"):
    Head(3, pool='max').init(jax.random.key(0), x, train=False)
