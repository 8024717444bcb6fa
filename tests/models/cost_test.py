import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.models.cost import multiply_adds


def test_a_convolution():
  conv = nn.Conv(5, (3, 2), strides=(2, 1), padding='VALID')
  image = jnp.zeros((2, 9, 8, 4))
  params = jax.eval_shape(conv.init, jax.random.key(0), image)
  # Output 4 x 7, and a bias that is no multiplication.
  assert multiply_adds(conv.apply, params, image) == 2 * 4 * 7 * 5 * 3 * 2 * 4


def test_groups_count_their_own_channels():
  conv = nn.Conv(6, (1, 1), feature_group_count=2)
  image = jnp.zeros((1, 3, 3, 4))
  params = jax.eval_shape(conv.init, jax.random.key(0), image)
  assert multiply_adds(conv.apply, params, image) == 9 * 6 * 2


def test_products_inside_other_programs():
  @jax.checkpoint
  def inner(a, b):
    return jax.jit(jnp.matmul)(a, b)

  def outer(a, b):
    return nn.relu(inner(a, b)).sum() + jnp.einsum('nij,nkj->nik', c, c).sum()

  c = jnp.zeros((7, 2, 3))
  a, b = jnp.zeros((4, 5)), jnp.zeros((5, 6))
  assert multiply_adds(outer, a, b) == 4 * 5 * 6 + 7 * 2 * 2 * 3
