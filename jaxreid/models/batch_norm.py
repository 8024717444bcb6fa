"""Batch normalisation with PyTorch's running variance.

Synopsis:

  y, updates = BatchNorm().apply(
    variables, x, train=True, mutable=['batch_stats']
  )

Both PyTorch and flax normalise a batch by its biased variance, but PyTorch
stores the unbiased one, n / (n - 1) times larger, for use at test. After a
pooling layer n is the batch size, so the choice moves every test embedding.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float


class BatchNorm(nn.Module):
  """Normalises the last axis over all the others, as PyTorch does.

  Statistics are computed in float32 or better whatever `dtype` is. Under
  `jax.jit` over a sharded batch they are those of the whole batch; nothing
  needs to be synchronised.

  Attributes:
    momentum: the share of the old running statistic that is kept (flax's
      sense: 0.9 is PyTorch's 0.1).
    epsilon: added to the variance.
    use_bias: whether to learn an offset; without one it is zero for ever.
    use_scale: whether to learn a factor.
    scale_init: initializer of the factor.
    dtype: of the output; None keeps that of the input.
  """

  momentum: float = 0.9
  epsilon: float = 1e-5
  use_bias: bool = True
  use_scale: bool = True
  scale_init: jax.nn.initializers.Initializer = nn.initializers.ones
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self, x: Float[Array, '*batch c'], train: bool
  ) -> Float[Array, '*batch c']:
    """Normalises x.

    Args:
      x: [..., C] features.
      train: normalise by the statistics of x and update the running ones
        (collection 'batch_stats', which has to be mutable); otherwise
        normalise by the running ones.

    Returns:
      [..., C], in `dtype`.

    Raises:
      ValueError: if a training batch has one value per channel only.
    """
    shape = x.shape[-1:]
    running_mean = self.variable(
      'batch_stats', 'mean', jnp.zeros, shape, jnp.float32
    )
    running_var = self.variable(
      'batch_stats', 'var', jnp.ones, shape, jnp.float32
    )
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean, var = running_mean.value, running_var.value
    if train:
      mean, var = _moments(wide)
      if not self.is_initializing():
        unbiased = var * _bessel(x.size // shape[0])
        self._update(running_mean, mean)
        self._update(running_var, unbiased)
    factor = jax.lax.rsqrt(var + self.epsilon)
    if self.use_scale:
      factor *= self.param('scale', self.scale_init, shape, jnp.float32)
    y = (wide - _row(mean, x.ndim)) * _row(factor, x.ndim)
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, shape, jnp.float32)
      y += _row(bias, x.ndim)
    return y.astype(x.dtype if self.dtype is None else self.dtype)

  def _update(self, running: nn.Variable, batch: Float[Array, ' c']) -> None:
    new = self.momentum * running.value + (1 - self.momentum) * batch
    # A changed dtype would change the state's tree and compile a second time.
    running.value = new.astype(running.value.dtype)


def _moments(
  x: Float[Array, '*batch c'],
) -> tuple[Float[Array, ' c'], Float[Array, ' c']]:
  """Mean and biased variance over all axes but the last."""
  axes = tuple(range(x.ndim - 1))
  mean = jnp.mean(x, axes)
  # Two passes: E[x^2] - E[x]^2 loses the variance where the mean is large.
  return mean, jnp.mean(jnp.square(x - _row(mean, x.ndim)), axes)


def _bessel(count: int) -> float:
  if count < 2:
    raise ValueError(
      'BatchNorm cannot train on one value per channel: its variance is '
      'undefined. Use a batch of at least 2 images.'
    )
  return count / (count - 1)


def _row(x: ArrayLike, ndim: int) -> Array:
  return jnp.asarray(x).reshape((1,) * (ndim - 1) + (-1,))
