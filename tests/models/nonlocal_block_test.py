import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxreid.models.nonlocal_block import NonLocalBlock


def _random(tree, rng):
  return jax.tree.map(lambda x: rng.normal(size=x.shape).astype('f4'), tree)


def test_identity_at_the_start():
  x = jax.random.normal(jax.random.key(1), (2, 3, 2, 4))
  block = NonLocalBlock()
  variables = block.init(jax.random.key(0), x, train=False)
  for train in (False, True):
    y, _ = block.apply(variables, x, train, mutable=['batch_stats'])
    assert_allclose(y, x)
  assert np.abs(variables['params']['g']['kernel']).max() <= 0.5
  assert np.abs(variables['params']['g']['bias']).max() > 0


@pytest.mark.parametrize('inter_channels', [1, 3])
def test_equals_plain_loops(inter_channels):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 3, 2, 4)).astype('float32')
  block = NonLocalBlock(inter_channels)
  variables = block.init(jax.random.key(0), jnp.asarray(x), train=False)
  params = _random(variables['params'], rng)
  norm = {'mean': rng.normal(size=4), 'var': rng.uniform(0.5, 2, 4)}
  norm = jax.tree.map(lambda v: v.astype('float32'), norm)
  y = block.apply(
    {'params': params, 'batch_stats': {'norm': norm}},
    jnp.asarray(x),
    train=False,
  )

  def dense(name, vector):
    return vector @ params[name]['kernel'] + params[name]['bias']

  for n in range(2):
    positions = x[n].reshape(6, 4)
    for p in range(6):
      total = np.zeros(inter_channels)
      for q in range(6):
        affinity = sum(
          dense('theta', positions[p]) * dense('phi', positions[q])
        )
        total += affinity / 6 * dense('g', positions[q])
      out = (dense('out', total) - norm['mean']) / np.sqrt(norm['var'] + 1e-5)
      out = out * params['norm']['scale'] + params['norm']['bias']
      expected = positions[p] + out
      assert_allclose(y[n].reshape(6, 4)[p], expected, rtol=1e-3, atol=1e-4)


def test_bfloat16():
  x = jnp.ones((1, 2, 2, 4), jnp.bfloat16)
  block = NonLocalBlock(dtype=jnp.bfloat16)
  variables = block.init(jax.random.key(0), x, train=False)
  assert block.apply(variables, x, train=False).dtype == jnp.bfloat16
  assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(variables))
