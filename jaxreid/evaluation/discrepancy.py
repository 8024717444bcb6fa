"""How far apart two sets of embeddings lie: the maximum mean discrepancy.

Synopsis:

  scale = median_squared_distance(visible, infrared, intermediate)
  shift = maximum_mean_discrepancy(visible, infrared, scale)
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxreid.distance import pairwise_euclidean

# Bandwidths as multiples of the median squared distance.
_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)


def median_squared_distance(
  *sets: Float[Array | np.ndarray, '_ d'], rows: int = 2000
) -> float:
  """The median heuristic: median squared distance of the pooled embeddings.

  Args:
    *sets: embeddings [N, D], pooled.
    rows: of each set at most so many rows are used, evenly spaced.

  Returns:
    The median over all pairs of different rows.

  Raises:
    ValueError: if there are fewer than two rows in all.
  """
  pooled = jnp.concatenate([_thin(x, rows) for x in sets])
  if len(pooled) < 2:
    raise ValueError('The median distance needs two embeddings or more.')
  distance = np.asarray(pairwise_euclidean(pooled, pooled))
  upper = distance[np.triu_indices(len(distance), k=1)]
  return float(np.median(np.square(upper)))


def maximum_mean_discrepancy(
  a: Float[Array | np.ndarray, 'n d'],
  b: Float[Array | np.ndarray, 'm d'],
  scale: float | None = None,
  rows: int = 2000,
) -> float:
  """The unbiased estimate of the squared maximum mean discrepancy.

  Gretton et al., "A Kernel Two-Sample Test", JMLR 13, 2012, Eq. 3, with the
  kernel `k(x, y) = sum_w exp(-|x - y|^2 / (2 w scale))` over the five
  bandwidths w = 1/4, 1/2, 1, 2, 4. About 0 for two samples of one
  distribution (it may be slightly negative), at most 10.

  Args:
    a: [N, D] embeddings, two or more.
    b: [M, D] embeddings, two or more.
    scale: squared length that the bandwidths are multiples of. None takes the
      median squared distance of `a` and `b`; to compare several pairs of sets,
      give all of them one value, e.g. `median_squared_distance(a, b, c)`.
    rows: of each set at most so many rows are used, evenly spaced.

  Returns:
    The estimate.

  Raises:
    ValueError: if a set has fewer than two rows.
  """
  if len(a) < 2 or len(b) < 2:
    raise ValueError(
      f'The discrepancy needs two embeddings or more of either set; got '
      f'{len(a)} and {len(b)}.'
    )
  if scale is None:
    scale = median_squared_distance(a, b, rows=rows)
  return float(_unbiased(_thin(a, rows), _thin(b, rows), scale))


def _thin(x: Float[Array | np.ndarray, 'n d'], rows: int) -> Array:
  count = min(len(x), rows)
  return jnp.asarray(x)[np.arange(count) * len(x) // max(count, 1)]


@jax.jit
def _unbiased(a: Array, b: Array, scale: Array | float) -> Array:
  def kernel(x: Array, y: Array) -> Array:
    squared = jnp.square(pairwise_euclidean(x, y)) / (2 * scale)
    terms = [jnp.exp(-squared / width) for width in _BANDWIDTHS]
    return sum(terms[1:], terms[0])

  def within(x: Array) -> Array:
    different = ~jnp.eye(len(x), dtype=bool)
    return jnp.sum(jnp.where(different, kernel(x, x), 0)) / (
      len(x) * (len(x) - 1)
    )

  return within(a) + within(b) - 2 * jnp.mean(kernel(a, b))
