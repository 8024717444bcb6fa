"""Losses that draw the embeddings of two modalities together.

Synopsis:

  loss = color_free(f_v, f_z, logits_v, logits_z).mean()
  loss = color_free_mse(f_v, f_z).mean()
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxreid.distance import working_dtype

_SMALLEST = 1e-12


def _require_equal(left: Array, right: Array, what: str) -> None:
  if left.ndim != 2 or left.shape != right.shape:
    raise ValueError(
      f'The visible and the intermediate {what} must be matrices of one '
      f'shape; got {left.shape} and {right.shape}.'
    )


def _unit(x: Float[Array, 'n d']) -> Float[Array, 'n d']:
  squared = jnp.sum(jnp.square(x), axis=1)[:, None]
  return x * lax.rsqrt(jnp.maximum(squared, _SMALLEST))


@functools.partial(
  jax.jit, static_argnames=('threshold', 'kl_weight', 'kl_order')
)
def color_free(
  visible: Float[Array, 'n d'],
  intermediate: Float[Array, 'n d'],
  visible_logits: Float[Array, 'n c'],
  intermediate_logits: Float[Array, 'n c'],
  threshold: float = 0.5,
  kl_weight: float = 0.5,
  kl_order: str = 'z_v',
) -> Float[Array, 'n']:
  """The colour-free loss of LUPI: teaches the visible branch to ignore colour.

  With `d = |f_v / |f_v| - f_z / |f_z||` a pair costs `d` where
  `d > threshold` and `kl_weight * KL(p_z || p_v)` elsewhere. Alehdaghi et
  al., "Visible-Infrared Person Re-Identification Using Privileged
  Intermediate Information", ECCV 2022 workshops, Eq. 6, where the weight is
  alpha_c.

  The paper leaves open what is compared with the threshold and which way the
  divergence goes; it prints KL(C(f_v), C(f_z)), the argument order of a
  well-known library's kl_div, which is KL(p_z || p_v). The intermediate image
  is the teacher: p_z passes no gradient in either order. The authors' code
  has `color_free_mse` in place of this loss. The value jumps at the
  threshold; the gradient is that of the branch taken.

  Args:
    visible: [N, D] embeddings f_v; their lengths do not matter.
    intermediate: [N, D] embeddings f_z of the same images without colour.
    visible_logits: [N, C] class scores of the visible images.
    intermediate_logits: [N, C] class scores of the intermediate images.
    threshold: distance (0 to 2) above which the embeddings are compared.
    kl_weight: weight of the divergence below it.
    kl_order: 'z_v' for KL(p_z || p_v), 'v_z' for KL(p_v || p_z).

  Returns:
    [N] losses.

  Raises:
    ValueError: if the shapes of the two sides differ, or on another order.
  """
  _require_equal(visible, intermediate, 'embeddings')
  _require_equal(visible_logits, intermediate_logits, 'logits')
  if kl_order not in ('z_v', 'v_z'):
    raise ValueError(f"kl_order is 'z_v' or 'v_z', not {kl_order!r}.")
  dtype = working_dtype(
    visible, intermediate, visible_logits, intermediate_logits
  )
  f_v, f_z = _unit(visible.astype(dtype)), _unit(intermediate.astype(dtype))
  squared = jnp.sum(jnp.square(f_v - f_z), axis=1)
  distance = jnp.sqrt(jnp.maximum(squared, _SMALLEST))
  log_v = jax.nn.log_softmax(visible_logits.astype(dtype))
  log_z = jax.nn.log_softmax(intermediate_logits.astype(dtype))
  log_z = lax.stop_gradient(log_z)
  p, q = (log_z, log_v) if kl_order == 'z_v' else (log_v, log_z)
  divergence = jnp.sum(jnp.exp(p) * (p - q), axis=1)
  return jnp.where(distance > threshold, distance, kl_weight * divergence)


@jax.jit
def color_free_mse(
  visible: Float[Array, 'n d'], intermediate: Float[Array, 'n d']
) -> Float[Array, 'n']:
  """The colour-free loss as LUPI's authors released it: a squared error.

  The mean over the D components of the squared difference, of embeddings as
  they are (before the BNNeck, not normalised); gradients reach both sides.
  Times the paper's lambda = 10 it is the term in their code.

  Args:
    visible: [N, D] embeddings.
    intermediate: [N, D] embeddings of the same images without colour.

  Returns:
    [N] losses.

  Raises:
    ValueError: if the shapes differ.
  """
  _require_equal(visible, intermediate, 'embeddings')
  dtype = working_dtype(visible, intermediate)
  difference = visible.astype(dtype) - intermediate.astype(dtype)
  return jnp.mean(jnp.square(difference), axis=1)
