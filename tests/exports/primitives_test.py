"""The rewritten function computes the same, for any batch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from numpy.testing import assert_allclose

from jaxreid.exports.primitives import rewrite


def pooled(x):
  x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
  return jax.jit(nn.gelu)(x)


def uneven(x):
  x = jnp.pad(x, ((0, 0), (2, 0), (0, 1), (0, 0)), constant_values=0.5)
  return nn.max_pool(nn.relu(x), (2, 3), strides=(1, 2), padding='VALID')


@pytest.mark.parametrize('function', [pooled, uneven])
def test_it_is_the_same_function(function):
  (batch,) = export.symbolic_shape('b')
  shape = jax.ShapeDtypeStruct((batch, 9, 7, 2), np.float32)
  plain = rewrite(function, shape)
  names = {e.primitive.name for e in jax.make_jaxpr(plain)(shape).jaxpr.eqns}
  assert not names & {'pad', 'reduce_window_max', 'jit', 'custom_jvp_call'}
  x = np.random.default_rng(0).normal(size=(3, 9, 7, 2)).astype(np.float32)
  (found,) = export.export(jax.jit(plain))(shape).call(x)
  assert_allclose(found, function(x), atol=1e-6)


@pytest.mark.parametrize(
  'config', [((0, 0, 0), (-1, 0, 0)), ((0, 0, 0), (0, 0, 1))]
)
def test_other_padding_is_refused(config):
  def function(x):
    return jax.lax.pad(x, jnp.float32(0), config)

  shape = jax.ShapeDtypeStruct((2, 3), np.float32)
  with pytest.raises(NotImplementedError, match='padding'):
    rewrite(function, shape)
