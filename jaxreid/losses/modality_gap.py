"""The modality gap constraints of XIV: within a modality and across.

Synopsis:

  within = modality_respective_gap(f_v, logits_v, labels).mean()
  across = cross_modality_gap(f_i, f_x, f_v, labels).mean()
  released = cross_center_gap(f_i, f_x, f_v, labels).mean()
  total = xiv_loss(f_i, f_x, f_v, logits_i, logits_x, logits_v, labels).mean()

Li, Wei, Hong, Gong, "Infrared-Visible Cross-Modal Person Re-Identification
with an X Modality", AAAI 2020. Row i of every set shows `labels[i]`; I is the
infrared, X the generated and V the visible set.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxreid.distance import pairwise_euclidean, working_dtype
from jaxreid.losses.identity import identity_loss
from jaxreid.losses.triplet import batch_hard_triplet


@functools.partial(jax.jit, static_argnames=('margin', 'label_smoothing'))
def modality_respective_gap(
  embeddings: Float[Array, 'n d'],
  logits: Float[Array, 'n c'],
  labels: Int[Array, 'n'],
  margin: float = 0.3,
  label_smoothing: float = 0.0,
) -> Float[Array, 'n']:
  """Identity loss plus triplet inside one modality: Eq. 8 to 10.

  `-y_i log p_i + [margin + max D(f_i, f_j) - min D(f_i, f_k)]_+`, positives j
  and negatives k from the modality itself. Eq. 7 is the sum over the three
  modalities. The authors' code smooths the labels by 0.1; Eq. 9 does not.

  Args:
    embeddings: [N, D] of one modality, before the BNNeck, not normalised.
    logits: [N, C] class scores of the same images.
    labels: [N] identities.
    margin: alpha_2.
    label_smoothing: of the identity loss.

  Returns:
    [N] losses.

  Raises:
    ValueError: if the rows differ in number.
  """
  hard = batch_hard_triplet(embeddings, embeddings, embeddings, labels, margin)
  return identity_loss(logits, labels, label_smoothing) + hard


@functools.partial(jax.jit, static_argnames='margin')
def cross_modality_gap(
  infrared: Float[Array, 'n d'],
  x: Float[Array, 'n d'],
  visible: Float[Array, 'n d'],
  labels: Int[Array, 'n'],
  margin: float = 0.5,
) -> Float[Array, 'n']:
  """Triplets between infrared and X and between infrared and visible.

  The sum of four directed terms, Eq. 3 to 6: anchors from I, positives and
  negatives from X, and the reverse; the same with V in place of X. V and X
  are not compared with each other. The authors' code compares centres
  instead, see `cross_center_gap`.

  Args:
    infrared: [N, D] embeddings, before the BNNeck, not normalised.
    x: [N, D].
    visible: [N, D].
    labels: [N] identities, the same for the three sets.
    margin: alpha_1.

  Returns:
    [N] losses; entry i joins the four terms anchored at row i.

  Raises:
    ValueError: if the sets and labels do not align.
  """
  directions = (
    (infrared, x),
    (x, infrared),
    (infrared, visible),
    (visible, infrared),
  )
  terms = [batch_hard_triplet(a, b, b, labels, margin) for a, b in directions]
  return terms[0] + terms[1] + terms[2] + terms[3]


@functools.partial(jax.jit, static_argnames='margin')
def cross_center_gap(
  infrared: Float[Array, 'n d'],
  x: Float[Array, 'n d'],
  visible: Float[Array, 'n d'],
  labels: Int[Array, 'n'],
  margin: float = 0.5,
) -> Float[Array, 'n']:
  """The cross modality gap as XIV's authors released it: between centres.

  With a_k and b_k the mean embeddings of identity k in two modalities,
  `[margin + D(a_k, b_k) - min_{l != k} min(D(a_k, b_l), D(a_l, b_k))]_+`, for
  I and X and for I and V, each counted twice as in that code. There the
  distances of different identities carry each other's norms by mistake; here
  they are the distances.

  Args:
    infrared: [N, D] embeddings.
    x: [N, D].
    visible: [N, D].
    labels: [N] identities, the same for the three sets.
    margin: alpha_1.

  Returns:
    [N] losses: every row has that of its identity, so that with equally many
    rows of each the mean is the mean over identities.

  Raises:
    ValueError: if the sets and labels do not align.
  """
  sets = (infrared, x, visible)
  if infrared.ndim != 2 or any(s.shape != infrared.shape for s in sets):
    raise ValueError(
      'The cross modality gap needs three matrices of one shape [N, D]; got '
      f'{[s.shape for s in sets]}.'
    )
  if labels.shape != infrared.shape[:1]:
    raise ValueError(
      f'There are {len(infrared)} rows of each modality, but labels of shape '
      f'{labels.shape}.'
    )
  same = labels[:, None] == labels[None, :]
  i, x, v = (_centers(s, same) for s in sets)
  return 2 * _between(i, x, same, margin) + 2 * _between(i, v, same, margin)


def _centers(embeddings: Array, same: Array) -> Array:
  """Every row's identity's mean."""
  dtype = working_dtype(embeddings)
  weights = same.astype(dtype)
  weights = weights / weights.sum(axis=1)[:, None]
  return jnp.matmul(
    weights, embeddings.astype(dtype), precision=lax.Precision.HIGHEST
  )


def _between(a: Array, b: Array, same: Array, margin: float) -> Array:
  distance = pairwise_euclidean(a, b)
  either = jnp.minimum(distance, distance.T)
  nearest = jnp.min(jnp.where(same, jnp.inf, either), axis=1)
  return jax.nn.relu(margin + jnp.diagonal(distance) - nearest)


@functools.partial(
  jax.jit,
  static_argnames=('gap_weight', 'cross_margin', 'margin', 'label_smoothing'),
)
def xiv_loss(
  infrared: Float[Array, 'n d'],
  x: Float[Array, 'n d'],
  visible: Float[Array, 'n d'],
  infrared_logits: Float[Array, 'n c'],
  x_logits: Float[Array, 'n c'],
  visible_logits: Float[Array, 'n c'],
  labels: Int[Array, 'n'],
  gap_weight: float = 0.1,
  cross_margin: float = 0.5,
  margin: float = 0.3,
  label_smoothing: float = 0.0,
) -> Float[Array, 'n']:
  """The whole of XIV: L_M + lambda L_C, Eq. 11.

  L_M is `modality_respective_gap` summed over the three modalities (Eq. 7),
  L_C is `cross_modality_gap`.

  Args:
    infrared: [N, D] embeddings, before the BNNeck, not normalised.
    x: [N, D].
    visible: [N, D].
    infrared_logits: [N, C] class scores.
    x_logits: [N, C].
    visible_logits: [N, C].
    labels: [N] identities, the same for the three sets.
    gap_weight: lambda.
    cross_margin: alpha_1, of L_C.
    margin: alpha_2, of L_M.
    label_smoothing: of the identity losses.

  Returns:
    [N] losses; entry i joins all terms of the three images of row i.

  Raises:
    ValueError: if the sets and labels do not align.
  """
  pairs = (
    (infrared, infrared_logits),
    (x, x_logits),
    (visible, visible_logits),
  )
  within = [
    modality_respective_gap(f, z, labels, margin, label_smoothing)
    for f, z in pairs
  ]
  across = cross_modality_gap(infrared, x, visible, labels, cross_margin)
  return within[0] + within[1] + within[2] + gap_weight * across
