"""The non-local block of AGW (Ye et al., 2021, https://arxiv.org/abs/2001.04193).

Synopsis:

  y, updates = NonLocalBlock(inter_channels=1).apply(
    variables, x, train=True, mutable=['batch_stats']
  )
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxreid.models.batch_norm import BatchNorm


class NonLocalBlock(nn.Module):
  """Adds to every position a sum over all positions, weighted by affinity.

  With P positions, y_p = x_p + BN(W sum_q (theta(x_p) . phi(x_q)) / P g(x_q)).
  The affinity is divided by the number of positions instead of passed through
  a softmax. The scale of the BatchNorm starts at zero, so that an untrained
  block is the identity and leaves pre-trained features as they are.

  Attributes:
    inter_channels: width of theta, phi and g. The released AGW weights have 1,
      by an oversight its authors confirmed; half the input's channels is what
      was meant.
    dtype: of the computation and the output; parameters are float32.
  """

  inter_channels: int = 1
  dtype: DTypeLike | None = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n h w c']:
    """Applies the block.

    Args:
      x: [N, h, w, C] feature map.
      train: as in `BatchNorm`.

    Returns:
      [N, h, w, C].
    """
    n, h, w, c = x.shape
    flat = x.reshape(n, h * w, c)
    theta = self._pointwise(self.inter_channels, c, 'theta')(flat)
    phi = self._pointwise(self.inter_channels, c, 'phi')(flat)
    g = self._pointwise(self.inter_channels, c, 'g')(flat)
    # Without a softmax (theta phi') g = theta (phi' g): nothing of size P x P.
    summary = jnp.einsum('npi,npj->nij', phi, g) / (h * w)
    y = jnp.einsum('npi,nij->npj', theta, summary)
    y = self._pointwise(c, self.inter_channels, 'out')(y)
    y = BatchNorm(
      scale_init=nn.initializers.zeros, dtype=self.dtype, name='norm'
    )(y, train)
    return x + y.reshape(x.shape)

  def _pointwise(self, features: int, fan_in: int, name: str) -> nn.Dense:
    return nn.Dense(
      features,
      kernel_init=_uniform(fan_in),
      bias_init=_uniform(fan_in),
      dtype=self.dtype,
      name=name,
    )


def _uniform(fan_in: int) -> jax.nn.initializers.Initializer:
  """PyTorch's default for a layer and its bias: U(-1, 1) / sqrt(fan_in)."""
  bound = 1 / math.sqrt(fan_in)

  def init(key, shape, dtype=jnp.float32, out_sharding=None):
    del out_sharding
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init
