"""Images described by their reciprocal neighbours, for re-ranking.

Synopsis:

  scale, nearest = find_nearest(distances, count=21)
  lists = describe(distances, scale, nearest, k1=20)
  averaged = average(lists, sources=nearest[:, :6], rows=100)

What `rerank` does before images are compared. Images are numbered with the
queries first, N in all. A description has weights on few images, so it is kept
as a list; lists are as wide as the longest, rounded up so that a few shapes
serve. The work is done in blocks of rows: nothing of the size of all distances
is made.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

# Entries of a block of rows: bounds the memory, and stays in a cache.
_BLOCK = 1 << 21
# Lists are wider than needed by less than this.
_WIDTH_STEP = 16


class Distances(NamedTuple):
  """The symmetric [N, N] matrix of all images, in the parts that it comes in.

  Attributes:
    query_query: [Nq, Nq] Euclidean distances.
    query_gallery: [Nq, Ng].
    gallery_gallery: [Ng, Ng].
  """

  query_query: Float[Array, 'q q']
  query_gallery: Float[Array, 'q g']
  gallery_gallery: Float[Array, 'g g']


class Lists(NamedTuple):
  """Rows of a sparse [R, N] matrix.

  Attributes:
    column: [R, W] in ascending order, padded with N.
    weight: [R, W] what stands there, 0 in the padding.
  """

  column: Int[Array, 'r w']
  weight: Float[Array, 'r w']


def find_nearest(
  distances: Distances, count: int
) -> tuple[Float[Array, 'n'], Int[Array, 'n k']]:
  """Scale and neighbours of every image.

  Args:
    distances: of all images.
    count: neighbours wanted, the image itself included.

  Returns:
    [N] the largest squared distance of each row (1 if all are 0), and
    [N, min(count, N)] the nearest images, the nearest first; of equally near
    ones the first.

  Raises:
    ValueError: if a distance is negative or its square not finite.
  """
  queries, gallery = distances.query_gallery.shape
  count = min(count, queries + gallery)
  parts = []
  for of_queries, rows in ((True, queries), (False, gallery)):
    size = block_size(rows, queries + gallery)
    block = functools.partial(_nearest, distances, of_queries, size, count)
    parts.append(in_blocks(block, rows, size))
  scale, nearest, valid = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
  if not bool(valid.all()):
    row = int(jnp.argmin(valid))
    kind, row = ('query', row) if row < queries else ('gallery', row - queries)
    raise ValueError(
      f'The distances of {kind} image {row}, and perhaps of others, hold NaN, '
      'infinite, negative or overflowing values; give Euclidean distances of '
      'finite embeddings.'
    )
  return scale, nearest


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _nearest(
  distances: Distances,
  of_queries: bool,
  size: int,
  count: int,
  start: Int[Array, ''] | int,
) -> tuple[Float[Array, 's'], Int[Array, 's k'], Bool[Array, 's']]:
  def take(x: Array, axis: int = 0) -> Array:
    return lax.dynamic_slice_in_dim(x, start, size, axis)

  if of_queries:
    halves = take(distances.query_query), take(distances.query_gallery)
  else:
    across = take(distances.query_gallery, axis=1).T
    halves = across, take(distances.gallery_gallery)
  rows = jnp.concatenate(halves, axis=1)
  squared = jnp.square(rows)
  scale = jnp.max(squared, axis=1)
  valid = jnp.isfinite(scale) & (jnp.min(rows, axis=1) >= 0)
  scale = jnp.where(scale > 0, scale, 1)
  _, nearest = lax.top_k(-squared / scale[:, None], count)
  return scale, nearest, valid


def describe(
  distances: Distances,
  scale: Float[Array, 'n'],
  nearest: Int[Array, 'n k'],
  k1: int,
) -> Lists:
  """Every image's weights on its expanded reciprocal neighbours.

  Args:
    distances: of all images.
    scale: [N] from `find_nearest`.
    nearest: [N, K] from `find_nearest`; K at least k1 + 1 or N.
    k1: length of the lists that must be reciprocal, without the image itself.

  Returns:
    N lists, each of sum 1; one among many coincident images can be empty.
  """
  images = len(scale)
  forward = nearest[:, : k1 + 1]
  half = nearest[:, : round(k1 / 2) + 1]
  half_mutual = _mutual(half)
  size = block_size(images, forward.shape[1] ** 2 * half.shape[1])
  expand = functools.partial(_expand, forward, half, half_mutual, size)
  members, lengths = in_blocks(expand, images, size)
  members = members[:, : _width(lengths, members.shape[1])]
  size = block_size(images, 4 * members.shape[1])
  weigh = functools.partial(_weigh, distances, scale, members, size)
  return in_blocks(weigh, images, size)


@jax.jit
def _mutual(lists: Int[Array, 'n k']) -> Bool[Array, 'n k']:
  """Which members of a row's list have the row in theirs."""
  row = jnp.arange(lists.shape[0])[:, None, None]
  return jnp.any(lists[lists] == row, axis=2)


@functools.partial(jax.jit, static_argnums=3)
def _expand(
  forward: Int[Array, 'n k'],
  half: Int[Array, 'n h'],
  half_mutual: Bool[Array, 'n h'],
  size: int,
  start: Int[Array, ''] | int,
) -> tuple[Int[Array, 's l'], Int[Array, 's']]:
  """Expanded sets as ascending lists, padded with N, and their sizes."""
  images = forward.shape[0]
  row = start + jnp.arange(size)
  own = forward[row]
  mutual = jnp.any(forward[own] == row[:, None, None], axis=2)
  base = jnp.where(mutual, own, images)
  theirs, counts = half[own], half_mutual[own]
  shared = jnp.any(theirs[..., None] == base[:, None, None, :], axis=3)
  overlap = jnp.sum(counts & shared, axis=2)
  merged = mutual & (3 * overlap > 2 * jnp.sum(counts, axis=2))
  more = jnp.where(merged[..., None] & counts, theirs, images)
  members = jnp.concatenate([base, more.reshape(size, -1)], axis=1)
  return _distinct(members, images)


def _distinct(
  index: Int[Array, 's l'], images: int
) -> tuple[Int[Array, 's l'], Int[Array, 's']]:
  index = jnp.sort(index, axis=1)
  repeated = jnp.pad(index[:, 1:] == index[:, :-1], ((0, 0), (1, 0)))
  index = jnp.sort(jnp.where(repeated, images, index), axis=1)
  return index, jnp.sum(index < images, axis=1)


def _width(lengths: Int[Array, 's'], most: int) -> int:
  longest = max(int(jnp.max(lengths)), 1)
  return min(most, -(-longest // _WIDTH_STEP) * _WIDTH_STEP)


@functools.partial(jax.jit, static_argnums=3)
def _weigh(
  distances: Distances,
  scale: Float[Array, 'n'],
  members: Int[Array, 'n w'],
  size: int,
  start: Int[Array, ''] | int,
) -> Lists:
  row = start + jnp.arange(size)
  index = members[row]
  squared = jnp.square(_entries(distances, row[:, None], index))
  weight = jnp.exp(-squared / scale[row][:, None])
  weight = jnp.where(index < scale.shape[0], weight, 0)
  total = jnp.sum(weight, axis=1, keepdims=True)
  return Lists(index, weight / jnp.where(total > 0, total, 1))


def _entries(
  distances: Distances, row: Int[Array, 's 1'], column: Int[Array, 's w']
) -> Float[Array, 's w']:
  """Entries of the matrix of all images; any value for a column of N."""
  queries = distances.query_query.shape[0]
  within, across, among = distances
  # Indices that lie outside a part are clipped, and the part is not used.
  of_query = jnp.where(
    column < queries,
    within.at[row, column].get(mode='clip'),
    across.at[row, column - queries].get(mode='clip'),
  )
  of_gallery = jnp.where(
    column < queries,
    across.at[column, row - queries].get(mode='clip'),
    among.at[row - queries, column - queries].get(mode='clip'),
  )
  return jnp.where(row < queries, of_query, of_gallery)


def average(lists: Lists, sources: Int[Array, 'n k'], rows: int) -> Lists:
  """Local query expansion of the first images: means over their neighbours.

  Args:
    lists: N descriptions.
    sources: [N, K], over whose descriptions an image's mean is taken.
    rows: for how many images.

  Returns:
    As many lists.
  """
  size = block_size(rows, lists.column.shape[0])
  block = functools.partial(_average, lists, sources, size)
  averaged, lengths = in_blocks(block, rows, size)
  width = _width(lengths, averaged.column.shape[1])
  return Lists(averaged.column[:, :width], averaged.weight[:, :width])


@functools.partial(jax.jit, static_argnums=2)
def _average(
  lists: Lists,
  sources: Int[Array, 'n k'],
  size: int,
  start: Int[Array, ''] | int,
) -> tuple[Lists, Int[Array, 's']]:
  images = sources.shape[0]
  dense = average_dense(lists, sources, size, start)
  chosen = sources[start + jnp.arange(size)]
  index, length = _distinct(lists.column[chosen].reshape(size, -1), images)
  row = jnp.arange(size)[:, None]
  weight = dense.at[index, row].get(mode='fill', fill_value=0)
  return Lists(index, weight), length


@functools.partial(jax.jit, static_argnums=2)
def average_dense(
  lists: Lists,
  sources: Int[Array, 'n k'],
  size: int,
  start: Int[Array, ''] | int,
) -> Float[Array, 'n s']:
  """As `average`, for `size` images from `start` on, as columns [N, size]."""
  chosen = sources[start + jnp.arange(size)]
  weight = lists.weight[chosen] / sources.shape[1]
  column = jnp.arange(size)[:, None, None]
  dense = jnp.zeros((sources.shape[0], size), weight.dtype)
  return dense.at[lists.column[chosen], column].add(weight, mode='drop')


def block_size(rows: int, width: int) -> int:
  """Rows of a block of bounded size, for blocks as equal as can be."""
  most = max(1, min(rows, _BLOCK // width))
  return -(-rows // -(-rows // most))


def in_blocks(function: Callable[[int], Any], rows: int, size: int) -> Any:
  """Joins function(start), trees of `size` rows each, to trees of all rows."""
  starts = [*range(0, rows - size, size), rows - size]
  parts = [function(start) for start in starts]
  # The last block ends where the rows end: all are of one shape.
  again = len(starts) * size - rows
  parts[-1] = jax.tree.map(lambda x: x[again:], parts[-1])
  return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
