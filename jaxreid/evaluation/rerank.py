"""k-reciprocal re-ranking: neighbours in common make two images alike.

Synopsis:

  distance = k_reciprocal(query, gallery)
  ranking = rank(distance, query_ids, gallery_ids, comparable)

The method is that of Zhong et al., "Re-ranking Person Re-identification with
k-reciprocal Encoding", CVPR 2017; `reciprocal` has its first half. Memory is
bounded: beside the distances themselves only blocks of rows are held.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxreid.distance import working_dtype
from jaxreid.evaluation import reciprocal
from jaxreid.evaluation.reciprocal import Distances, Lists

# Rows and columns of a tile of the result that stays in a cache.
_TILE = (1024, 512)
# Rows of a tile of the distances.
_EMBEDDINGS = 384


def k_reciprocal(
  query: Float[Array | np.ndarray, 'q ... d'],
  gallery: Float[Array | np.ndarray, 'g ... d'],
  k1: int = 20,
  k2: int = 6,
  lambda_value: float = 0.3,
) -> Float[Array, 'q g']:
  """Re-ranked distances of queries to gallery images, from their embeddings.

  Computes the Euclidean distances within and between the two sets and calls
  `k_reciprocal_from_distance`, where the method is described. The distances
  are held once, less than (Nq + Ng)^2 numbers.

  Args:
    query: [Nq, D] embeddings, or [Nq, 1, D].
    gallery: [Ng, D] embeddings, or [Ng, 1, D].
    k1: length of the neighbour lists that must be reciprocal.
    k2: neighbours over which an image's description is averaged.
    lambda_value: share of the original distance in the result.

  Returns:
    [Nq, Ng] distances for `jaxreid.evaluation.ranking.rank`.

  Raises:
    ValueError: if images have several embeddings each, if the shapes do not
      fit together, if an embedding is not finite, or on parameters out of
      range.
  """
  query, gallery = _one_embedding(query), _one_embedding(gallery)
  if query.shape[1] != gallery.shape[1]:
    raise ValueError(
      f'Query embeddings are {query.shape[1]} wide, gallery embeddings '
      f'{gallery.shape[1]}; both must come from one model.'
    )
  for name, embeddings in (('query', query), ('gallery', gallery)):
    if not bool(jnp.isfinite(embeddings).all()):
      raise ValueError(
        f'The {name} embeddings hold NaN or infinite values: the model has '
        'diverged; evaluate an earlier checkpoint.'
      )
  return k_reciprocal_from_distance(
    _tiled(query, query, True, _EMBEDDINGS),
    _tiled(query, gallery, False, _EMBEDDINGS),
    _tiled(gallery, gallery, True, _EMBEDDINGS),
    k1,
    k2,
    lambda_value,
  )


def k_reciprocal_from_distance(
  query_query: Float[Array | np.ndarray, 'q q'],
  query_gallery: Float[Array | np.ndarray, 'q g'],
  gallery_gallery: Float[Array | np.ndarray, 'g g'],
  k1: int = 20,
  k2: int = 6,
  lambda_value: float = 0.3,
) -> Float[Array, 'q g']:
  """Re-ranked distances, from the distances within and between the two sets.

  Give plain Euclidean distances, not squared ones: they are squared here, once
  (squared twice, results are about a point worse). Zhong et al., CVPR 2017:

  1. Squared distances d, each row divided by its maximum.
  2. R(i): those among the k1 + 1 nearest of i, itself included, that have i
     among their k1 + 1 nearest (Eq. 3).
  3. R(i) takes in the list of each of its members c, made in the same way of
     the round(k1 / 2) + 1 nearest, if more than 2/3 of that list are in R(i)
     already (Eq. 4).
  4. V(i, j) = exp(-d(i, j)) for j in R(i), else 0, divided by its sum (Eq. 7;
     the division as in the authors' code), then averaged over the k2 nearest
     of i (Eq. 11; left out if k2 is 1).
  5. Jaccard distance 1 - s / (2 - s), s = sum_j min(V(i, j), V(g, j)) (Eq. 10;
     rows of V sum to 1).
  6. (1 - lambda) * Jaccard + lambda * d (Eq. 12).

  Equal distances count in the order of the images, queries first.

  Which gallery images a query may be compared with (same location, and so
  on) plays no part here, it acts in `rank` alone: an excluded image gets a
  distance like any other, and as a neighbour it still shapes the distances of
  the others.

  Args:
    query_query: [Nq, Nq] Euclidean distances among the queries.
    query_gallery: [Nq, Ng] of the queries to the gallery images.
    gallery_gallery: [Ng, Ng] among the gallery images.
    k1: length of the neighbour lists that must be reciprocal.
    k2: neighbours over which an image's description is averaged.
    lambda_value: share of the original distance in the result, 0 to 1.

  Returns:
    [Nq, Ng] distances for `jaxreid.evaluation.ranking.rank`, in float32 or
    wider. Not for use inside `jit`: widths of lists depend on the values.

  Raises:
    ValueError: if the shapes do not fit together, if a distance is NaN,
      infinite (squared, too) or negative, or on parameters out of range.
  """
  _check_shapes(query_query.shape, query_gallery.shape, gallery_gallery.shape)
  _check_parameters(k1, k2, lambda_value)
  given = [
    jnp.asarray(x) for x in (query_query, query_gallery, gallery_gallery)
  ]
  dtype = working_dtype(*given)
  distances = Distances(*(x.astype(dtype) for x in given))
  scale, nearest = reciprocal.find_nearest(distances, max(k1 + 1, k2))
  lists = reciprocal.describe(distances, scale, nearest, k1)
  # Among coincident images the nearest one need not be the image itself.
  itself = jnp.arange(len(scale), dtype=nearest.dtype)[:, None]
  sources = itself if k2 == 1 else nearest[:, :k2]
  return _compare(distances, scale, lists, sources, lambda_value)


def _one_embedding(
  x: Float[Array | np.ndarray, 'n ... d'],
) -> Float[Array, 'n d']:
  x = jnp.asarray(x)
  if x.ndim == 3 and x.shape[1] > 1:
    raise ValueError(
      f'The images have {x.shape[1]} embeddings each, but re-ranking needs '
      'one distance also within the gallery and within the queries, which a '
      "sum over modalities is not; use test_distance='plain', that is give the "
      'first embedding alone.'
    )
  if x.ndim == 3:
    x = x.reshape(x.shape[0], x.shape[2])
  if x.ndim != 2 or 0 in x.shape:
    raise ValueError(
      f'Embeddings are needed as [N, D], at least one; got shape {x.shape}.'
    )
  return x


def _check_shapes(
  query_query: tuple[int, ...],
  query_gallery: tuple[int, ...],
  gallery_gallery: tuple[int, ...],
) -> None:
  fits = len(query_gallery) == 2 and 0 not in query_gallery
  if (
    not fits
    or query_query != (query_gallery[0],) * 2
    or gallery_gallery != (query_gallery[1],) * 2
  ):
    raise ValueError(
      'Re-ranking needs distances [Nq, Nq], [Nq, Ng] and [Ng, Ng] of at least '
      f'one query and one gallery image; got {query_query}, {query_gallery} '
      f'and {gallery_gallery}.'
    )


def _check_parameters(k1: int, k2: int, lambda_value: float) -> None:
  if k1 < 1 or k2 < 1:
    raise ValueError(f'k1 and k2 are at least 1; got {k1} and {k2}.')
  if not 0 <= lambda_value <= 1:
    raise ValueError(f'lambda_value is from 0 to 1, not {lambda_value}.')


@functools.partial(jax.jit, static_argnames=('symmetric', 'size'))
def _tiled(
  a: Float[Array, 'm d'], b: Float[Array, 'n d'], symmetric: bool, size: int
) -> Float[Array, 'm n']:
  """As `pairwise_euclidean`, without a second copy; half the work if a is b."""
  a, b = (x.astype(working_dtype(a, b)) for x in (a, b))
  # Summed once, not for every tile.
  lengths = jnp.sum(jnp.square(a), axis=1), jnp.sum(jnp.square(b), axis=1)
  rows, columns = _tiles(a.shape[0], size), _tiles(b.shape[0], size)
  corners = jnp.array(
    [(i, j) for i in rows for j in columns if i <= j or not symmetric]
  )

  def take(x: Array, start: Array) -> Array:
    return lax.dynamic_slice_in_dim(x, start, min(size, x.shape[0]))

  def fill(k: Array, whole: Array) -> Array:
    i, j = corners[k]
    products = jnp.matmul(
      take(a, i), take(b, j).T, precision=lax.Precision.HIGHEST
    )
    squared = take(lengths[0], i)[:, None] + take(lengths[1], j)[None, :]
    tile = jnp.sqrt(jnp.maximum(squared - 2 * products, 0))
    whole = lax.dynamic_update_slice(whole, tile, (i, j))
    if symmetric:
      whole = lax.dynamic_update_slice(whole, tile.T, (j, i))
    return whole

  empty = jnp.zeros((a.shape[0], b.shape[0]), a.dtype)
  return lax.fori_loop(0, len(corners), fill, empty)


def _tiles(rows: int, size: int) -> list[int]:
  """Where tiles begin that cover the rows, the last one ending with them."""
  size = min(size, rows)
  return [*range(0, rows - size, size), rows - size]


def _compare(
  distances: Distances,
  scale: Float[Array, 'n'],
  lists: Lists,
  sources: Int[Array, 'n k'],
  lambda_value: float,
) -> Float[Array, 'q g']:
  """Jaccard distances of queries and gallery, mixed with the given ones."""
  queries, gallery = distances.query_gallery.shape
  averaged = reciprocal.average(lists, sources, queries)
  high, wide = min(_TILE[0], queries), min(_TILE[1], gallery)

  def columns(start: int) -> Float[Array, 's q']:
    weights = reciprocal.average_dense(lists, sources, wide, queries + start)

    def tile(row: int) -> Float[Array, 'r s']:
      return _tile(
        distances, scale, averaged, weights, row, start, lambda_value, high
      )

    return reciprocal.in_blocks(tile, queries, high).T

  return reciprocal.in_blocks(columns, gallery, wide).T


@functools.partial(jax.jit, static_argnames='size')
def _tile(
  distances: Distances,
  scale: Float[Array, 'n'],
  averaged: Lists,
  weights: Float[Array, 'n c'],
  row: Int[Array, ''] | int,
  column: Int[Array, ''] | int,
  lambda_value: Float[Array, ''] | float,
  size: int,
) -> Float[Array, 's c']:
  """A tile of the result: queries from `row`, gallery from `column` on."""
  shape = (size, weights.shape[1])
  index = lax.dynamic_slice_in_dim(averaged.column, row, size)
  weight = lax.dynamic_slice_in_dim(averaged.weight, row, size)

  def add(k: Array, total: Array) -> Array:
    theirs = weights.at[index[:, k]].get(mode='clip')
    return total + jnp.minimum(theirs, weight[:, k][:, None])

  shared = jnp.zeros(shape, weights.dtype)
  shared = lax.fori_loop(0, index.shape[1], add, shared)
  jaccard = 1 - shared / (2 - shared)
  given = lax.dynamic_slice(distances.query_gallery, (row, column), shape)
  own = lax.dynamic_slice_in_dim(scale, row, size)[:, None]
  return (1 - lambda_value) * jaccard + lambda_value * jnp.square(given) / own
