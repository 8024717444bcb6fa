"""The identity loss: cross entropy over the training identities.

Synopsis:

  loss = identity_loss(logits, labels, label_smoothing=0.1).mean()
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxreid.distance import working_dtype


@functools.partial(jax.jit, static_argnames='label_smoothing')
def identity_loss(
  logits: Float[Array, 'n c'],
  labels: Int[Array, 'n'],
  label_smoothing: float = 0.0,
) -> Float[Array, 'n']:
  """Cross entropy with optional label smoothing.

  The target of a row is `(1 - eps) onehot(label) + eps / C`. Smoothing is
  from Szegedy et al., "Rethinking the Inception Architecture for Computer
  Vision", CVPR 2016, section 7.

  Args:
    logits: [N, C] scores of the C identities.
    labels: [N] integers from 0 to C - 1. A label of C or more gives NaN
      rather than a wrong loss.
    label_smoothing: eps, from 0 (none) to 1 (labels ignored).

  Returns:
    [N] losses in nats.

  Example:
    >>> logits = jnp.array([[5.0, 0.0], [0.0, 0.0]])
    >>> identity_loss(logits, jnp.array([0, 1])).round(3)
    Array([0.007, 0.693], dtype=float32)

  Raises:
    ValueError: if the rows differ in number or eps is not in [0, 1].
  """
  if logits.ndim != 2 or labels.shape != logits.shape[:1]:
    raise ValueError(
      'The identity loss needs logits [N, C] and labels [N]; got '
      f'{logits.shape} and {labels.shape}.'
    )
  if not 0 <= label_smoothing <= 1:
    raise ValueError(f'label_smoothing is {label_smoothing}, not in [0, 1].')
  log_p = jax.nn.log_softmax(logits.astype(working_dtype(logits)))
  true_log_p = jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]
  mean_log_p = jnp.mean(log_p, axis=1)
  return -(1 - label_smoothing) * true_log_p - label_smoothing * mean_log_p
