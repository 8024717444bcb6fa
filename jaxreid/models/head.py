"""From a feature map to an embedding and class scores.

Synopsis:

  head = Head(num_classes=395)
  output, updates = head.apply(
    variables, feature_map, train=True, mutable=['batch_stats']
  )
  output.pooled, output.neck, output.logits
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxreid.models.batch_norm import BatchNorm


class HeadOutput(NamedTuple):
  """What a head makes of N images.

  Attributes:
    pooled: [N, C], before the BNNeck; metric losses compare these.
    neck: [N, C], after it (equal to `pooled` without one).
    logits: [N, classes], linear in `neck`.
  """

  pooled: Float[Array, 'n c']
  neck: Float[Array, 'n c']
  logits: Float[Array, 'n k']


class Head(nn.Module):
  """Pooling, BNNeck and a classifier without bias, in float32 or better.

  BNNeck (Luo et al., 2019, https://arxiv.org/abs/1903.07071) is a BatchNorm
  whose bias is fixed at zero, between the feature that triplets see and the
  one that is classified.

  Attributes:
    num_classes: number of training identities.
    pool: 'gem' (`generalized_mean`) or 'average'; the latter after a Swin,
      whose features are negative, too.
    neck: whether there is a BNNeck.
    neck_scale_std: the BNNeck's scale starts from N(1, this^2): 0.01 as AGW
      has it, 0 for ones as BoT has it.
  """

  num_classes: int
  pool: str = 'gem'
  neck: bool = True
  neck_scale_std: float = 0.01

  @nn.compact
  def __call__(
    self, feature_map: Float[Array, 'n h w c'], train: bool
  ) -> HeadOutput:
    """Pools and classifies.

    Args:
      feature_map: [N, h, w, C].
      train: as in `BatchNorm`.

    Returns:
      The three outputs, in float32 or better.

    Raises:
      ValueError: on an unknown `pool`.
    """
    x = feature_map.astype(jnp.promote_types(feature_map.dtype, jnp.float32))
    match self.pool:
      case 'gem':
        pooled = generalized_mean(x)
      case 'average':
        pooled = jnp.mean(x, (1, 2))
      case _:
        raise ValueError(f"pool is {self.pool!r}; use 'gem' or 'average'.")
    neck = pooled
    if self.neck:
      scale_init = _around_one(self.neck_scale_std)
      neck = BatchNorm(use_bias=False, scale_init=scale_init, name='neck')(
        pooled, train
      )
    classifier = nn.Dense(
      self.num_classes,
      use_bias=False,
      kernel_init=nn.initializers.normal(0.001),
      name='classifier',
    )
    return HeadOutput(pooled, neck, classifier(neck))


def generalized_mean(x: Float[Array, 'n h w c']) -> Float[Array, 'n c']:
  """GeM pooling with the fixed exponent 3: (mean x^3 + 1e-12)^(1/3).

  Between average pooling (exponent 1) and max pooling (infinity); Radenovic
  et al., 2019, https://arxiv.org/abs/1711.02512. AGW keeps the exponent
  constant, and so do we.

  Args:
    x: [N, h, w, C] activations; negative ones count as zero.

  Returns:
    [N, C]. The gradient is finite, and zero where a channel is zero
    throughout.
  """
  mean = jnp.mean(nn.relu(x) ** 3, (1, 2))
  return (mean + 1e-12) ** (1 / 3)


def _around_one(std: float) -> jax.nn.initializers.Initializer:
  def init(key, shape, dtype=jnp.float32, out_sharding=None):
    del out_sharding
    return 1 + std * jax.random.normal(key, shape, dtype)

  return init
