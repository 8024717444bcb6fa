"""Triplet losses over identity-aligned sets of embeddings.

Synopsis:

  within = batch_hard_triplet(infrared, infrared, infrared, labels)
  across = batch_hard_triplet(infrared, visible, visible, labels)
  agw = weighted_regularized_triplet(both, jnp.tile(labels, 2))
  lupi = cyclic_triplet(visible, infrared, intermediate, labels)
  multi_mask = multi_mask_triplet(
    visible, infrared, labels, 0.3, spread_margin=0.1, spread_weight=0.5
  )

Row i of every set shows the identity `labels[i]`. Mining sees all rows that
it is given, on however many devices they lie. An anchor without a negative
has nothing to be pushed away from: its triplet and gradient are 0.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxreid.distance import pairwise_euclidean


def _same_identity(
  labels: Int[Array, '...'], *sets: Float[Array, '...']
) -> Bool[Array, 'n n']:
  """Which pairs of rows share an identity; checks that the sets align."""
  shapes = {embeddings.shape for embeddings in sets}
  (shape, *others) = shapes
  if others or len(shape) != 2 or labels.shape != shape[:1]:
    raise ValueError(
      'A triplet loss needs embeddings of one shape [N, D] and labels [N]; '
      f'got {[s.shape for s in sets]} and {labels.shape}.'
    )
  return labels[:, None] == labels[None, :]


@functools.partial(jax.jit, static_argnames='margin')
def batch_hard_triplet(
  anchor: Float[Array, 'n d'],
  positive: Float[Array, 'n d'],
  negative: Float[Array, 'n d'],
  labels: Int[Array, 'n'],
  margin: float = 0.3,
) -> Float[Array, 'n']:
  """Hinge on each anchor's hardest positive and hardest negative.

  `max(0, margin + max_{y_j = y_i} D(a_i, p_j) - min_{y_k != y_i} D(a_i, n_k))`

  Hermans et al., "In Defense of the Triplet Loss for Person
  Re-Identification", 2017, Eq. 5, with anchors, positives and negatives from
  three sets: pass one array three times for the original. Row i of `positive`
  counts as a positive of anchor i, which is what a cross-modal pair should be;
  where both are the same array this self-pair has distance 0 and matters only
  to an anchor without another positive.

  Args:
    anchor: [N, D] embeddings, usually not normalised.
    positive: [N, D], the set in which positives are looked for.
    negative: [N, D], the set in which negatives are looked for.
    labels: [N] identities, the same for all three sets.
    margin: by how much a negative should be farther than a positive.

  Returns:
    [N] losses, 0 for an anchor without a negative.

  Example:
    >>> visible = jnp.array([[0.0], [1.0], [2.0], [3.0]])
    >>> infrared = visible + 0.5
    >>> labels = jnp.array([7, 7, 8, 8])
    >>> batch_hard_triplet(visible, infrared, infrared, labels, margin=0.5)
    Array([0. , 0. , 1.5, 0. ], dtype=float32)

  Raises:
    ValueError: if the sets and labels do not align.
  """
  same = _same_identity(labels, anchor, positive, negative)
  to_positive = pairwise_euclidean(anchor, positive)
  to_negative = pairwise_euclidean(anchor, negative)
  hardest_positive = jnp.max(jnp.where(same, to_positive, -jnp.inf), axis=1)
  hardest_negative = jnp.min(jnp.where(same, jnp.inf, to_negative), axis=1)
  return jax.nn.relu(margin + hardest_positive - hardest_negative)


@jax.jit
def weighted_regularized_triplet(
  embeddings: Float[Array, 'n d'], labels: Int[Array, 'n']
) -> Float[Array, 'n']:
  """The AGW baseline's triplet: all pairs, hard ones weighted up, no margin.

  `log(1 + exp(sum_j w+_ij D_ij - sum_k w-_ik D_ik))` with
  `w+ = softmax(D)` over the positives and `w- = softmax(-D)` over the
  negatives of anchor i. Ye et al., "Deep Learning for Person
  Re-identification: A Survey and Outlook", TPAMI 2021, Eq. 8 and 9.

  An anchor is one of its own positives, as in the authors' code. Unlike that
  code, the weights always sum to 1: there the negatives' exponentials are not
  stabilised and 1e-6 is added to their sum, so that the negative term fades
  out beyond distances of about 15.

  Args:
    embeddings: [N, D], all modalities stacked.
    labels: [N] identities.

  Returns:
    [N] losses, 0 for an anchor without a negative.

  Raises:
    ValueError: if the rows differ in number.
  """
  same = _same_identity(labels, embeddings)
  distance = pairwise_euclidean(embeddings, embeddings)
  # A finite floor in place of -inf: a row without negatives stays free of NaN.
  floor = jnp.finfo(distance.dtype).min
  positive_weight = jax.nn.softmax(jnp.where(same, distance, floor))
  negative_weight = jax.nn.softmax(jnp.where(same, floor, -distance))
  positive = jnp.sum(positive_weight * distance, axis=1)
  negative = jnp.sum(negative_weight * distance, axis=1)
  has_negative = jnp.any(~same, axis=1)
  return jnp.where(has_negative, jax.nn.softplus(positive - negative), 0)


@functools.partial(jax.jit, static_argnames=('margin', 'reduction'))
def cyclic_triplet(
  visible: Float[Array, 'n d'],
  infrared: Float[Array, 'n d'],
  intermediate: Float[Array, 'n d'],
  labels: Int[Array, 'n'],
  margin: float = 0.3,
  reduction: str = 'sum',
) -> Float[Array, 'n']:
  """The three-set triplet of LUPI: each modality once anchor, once negative.

  (anchor, positive, negative) = (V, T, Z), (T, Z, V), (Z, V, T), where T is
  the infrared and Z the intermediate set. Alehdaghi et al., "Visible-Infrared
  Person Re-Identification Using Privileged Intermediate Information", ECCV
  2022 workshops, Eq. 5. The paper prints the distances with exchanged signs
  and no hinge; this is the hinge `margin + positive - negative`.

  Args:
    visible: [N, D] embeddings, usually not normalised.
    infrared: [N, D].
    intermediate: [N, D].
    labels: [N] identities, the same for the three sets.
    margin: margin of each of the three terms.
    reduction: 'sum' of the three terms as in the paper, or their 'mean' as in
      the authors' code.

  Returns:
    [N] losses; entry i joins the three terms anchored at row i.

  Raises:
    ValueError: if the sets and labels do not align, or on another reduction.
  """
  if reduction not in ('sum', 'mean'):
    raise ValueError(f"A reduction is 'sum' or 'mean', not {reduction!r}.")
  cycle = (
    (visible, infrared, intermediate),
    (infrared, intermediate, visible),
    (intermediate, visible, infrared),
  )
  terms = [batch_hard_triplet(*sets, labels, margin) for sets in cycle]
  total = terms[0] + terms[1] + terms[2]
  return total if reduction == 'sum' else total / 3


@functools.partial(
  jax.jit,
  static_argnames=(
    'margin',
    'spread_margin',
    'spread_weight',
    'triplet_weight',
  ),
)
def multi_mask_triplet(
  anchor: Float[Array, 'n d'],
  other: Float[Array, 'n d'],
  labels: Int[Array, 'n'],
  margin: float,
  spread_margin: float,
  spread_weight: float,
  triplet_weight: float = 1.0,
) -> Float[Array, 'n']:
  """A triplet in the other modality, and a limit to its positives' spread.

  With the distances D of an anchor to the images of the other modality, all
  positives p and all negatives n:

  `w max(0, max_p D - min_n D + m1) + lambda max(0, max_p D - min_p D - m2)`

  "A New Paradigm for Cross-Modality Person Re-Identification", Eq. 1, one
  direction; the other is the same with the sets exchanged. The paper prints
  no hinges, and the positives from the anchor's own modality; by its text
  positives and negatives are both from the other one. Its first term is
  called MMTN, its second MMTP; either is left out with its weight 0. It gives
  no numbers; m1 0.3, m2 0.1 and lambda 0.5 are ours.

  Args:
    anchor: [N, D] embeddings of one modality, usually not normalised.
    other: [N, D] of the other.
    labels: [N] identities, the same for both.
    margin: m1, by how much the nearest negative should be farther than the
      hardest positive.
    spread_margin: m2, by how much the hardest positive may be farther than
      the easiest. It cannot act with one image of an identity.
    spread_weight: lambda.
    triplet_weight: w.

  Returns:
    [N] losses. For an anchor without a negative the first term is 0.

  Example:
    >>> visible = jnp.array([[0.0], [1.0], [2.0], [3.0]])
    >>> infrared = visible + 0.5
    >>> labels = jnp.array([7, 7, 8, 8])
    >>> multi_mask_triplet(visible, infrared, labels, 0.5, 0.25, 1.0)
    Array([0.75, 0.  , 2.25, 0.  ], dtype=float32)

  Raises:
    ValueError: if the sets and labels do not align.
  """
  same = _same_identity(labels, anchor, other)
  distance = pairwise_euclidean(anchor, other)
  hardest_positive = jnp.max(jnp.where(same, distance, -jnp.inf), axis=1)
  easiest_positive = jnp.min(jnp.where(same, distance, jnp.inf), axis=1)
  nearest_negative = jnp.min(jnp.where(same, jnp.inf, distance), axis=1)
  triplet = jax.nn.relu(hardest_positive - nearest_negative + margin)
  spread = jax.nn.relu(hardest_positive - easiest_positive - spread_margin)
  return triplet_weight * triplet + spread_weight * spread
