"""Images described by their reciprocal neighbours, for re-ranking.

Synopsis:

  scale, nearest = find_nearest(distances, count=21)
  lists = describe(distances, scale, nearest, k1=20)
  sources = nearest[:, :6]
  averaged = average(lists, sources, rows=100)

The parts of the method of `rerank` that come before images are compared.
Images are numbered with the queries first. A description has weights on few
images, so it is kept as a list; lists are as wide as the longest, rounded up
so that a few shapes serve. All work is done in blocks of rows: nothing of the
size of all distances is made.
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
  """The symmetric matrix of all images, in the parts that were given."""

  query_query: Float[Array, 'q q']
  query_gallery: Float[Array, 'q g']
  gallery_gallery: Float[Array, 'g g']


class Lists(NamedTuple):
  """Sparse rows: `index` ascending, padded with N; `weight` there 0."""

  index: Int[Array, 'r w']
  weight: Float[Array, 'r w']


def find_nearest(
  distances: Distances, count: int
) -> tuple[Float[Array, 'n'], Int[Array, 'n k']]:
  """Maximum of each squared row, and its nearest images, nearest first."""
  queries, gallery = distances.query_gallery.shape
  count = min(count, queries + gallery)
  parts = []
  for of_queries, rows in ((True, queries), (False, gallery)):
    size = block_size(rows, queries + gallery)
    parts.append(
      in_blocks(
        lambda start, of_queries=of_queries, size=size: _nearest(
          distances, start, of_queries, size, count
        ),
        rows,
        size,
      )
    )
  scale, nearest, valid = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
  if not bool(valid.all()):
    row = int(jnp.argmin(valid))
    kind, row = ('query', row) if row < queries else ('gallery', row - queries)
    raise ValueError(
      f'The distances of {kind} image {row} (and perhaps others) hold NaN, '
      'infinite, negative or overflowing values; give plain Euclidean '
      'distances of finite embeddings.'
    )
  return scale, nearest


@functools.partial(jax.jit, static_argnames=('of_queries', 'size', 'count'))
def _nearest(
  distances: Distances,
  start: Int[Array, ''] | int,
  of_queries: bool,
  size: int,
  count: int,
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
  # Rows of coincident images have no other scale.
  scale = jnp.where(scale > 0, scale, 1)
  _, nearest = lax.top_k(-squared / scale[:, None], count)
  return scale, nearest, valid


def describe(
  distances: Distances,
  scale: Float[Array, 'n'],
  nearest: Int[Array, 'n k'],
  k1: int,
) -> Lists:
  """Weights of every image on its expanded reciprocal neighbours."""
  images = len(scale)
  forward = nearest[:, : k1 + 1]
  half = nearest[:, : round(k1 / 2) + 1]
  half_reciprocal = _reciprocal(half)
  size = block_size(images, forward.shape[1] ** 2 * half.shape[1])
  members, lengths = in_blocks(
    lambda start: _expand(forward, half, half_reciprocal, start, size),
    images,
    size,
  )
  members = members[:, : _width(lengths, members.shape[1])]
  size = block_size(images, 4 * members.shape[1])
  return in_blocks(
    lambda start: _weigh(distances, scale, members, start, size), images, size
  )


@jax.jit
def _reciprocal(lists: Int[Array, 'n k']) -> Bool[Array, 'n k']:
  """Which members of a row's list have the row in theirs."""
  row = jnp.arange(lists.shape[0])[:, None, None]
  return jnp.any(lists[lists] == row, axis=2)


@functools.partial(jax.jit, static_argnames='size')
def _expand(
  forward: Int[Array, 'n k'],
  half: Int[Array, 'n h'],
  half_reciprocal: Bool[Array, 'n h'],
  start: Int[Array, ''] | int,
  size: int,
) -> tuple[Int[Array, 's l'], Int[Array, 's']]:
  """Expanded sets as ascending lists, padded with N, and their sizes."""
  images = forward.shape[0]
  row = start + jnp.arange(size)
  own = forward[row]
  mutual = jnp.any(forward[own] == row[:, None, None], axis=2)
  theirs, counts = half[own], half_reciprocal[own]
  base = jnp.where(mutual, own, images)
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


@functools.partial(jax.jit, static_argnames='size')
def _weigh(
  distances: Distances,
  scale: Float[Array, 'n'],
  members: Int[Array, 'n w'],
  start: Int[Array, ''] | int,
  size: int,
) -> Lists:
  row = start + jnp.arange(size)
  index = members[row]
  squared = jnp.square(_entries(distances, row[:, None], index))
  weight = jnp.exp(-squared / scale[row][:, None])
  weight = jnp.where(index < scale.shape[0], weight, 0)
  total = jnp.sum(weight, axis=1, keepdims=True)
  # Among many coincident images one can be without reciprocal neighbours.
  return Lists(index, weight / jnp.where(total > 0, total, 1))


def _entries(
  distances: Distances, row: Int[Array, 's 1'], column: Int[Array, 's w']
) -> Float[Array, 's w']:
  """Entries of the matrix of all images; any value for a column of N."""
  queries = distances.query_query.shape[0]
  within, across, among = distances
  # Indices out of the part that is meant are clipped and not used.
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


@functools.partial(jax.jit, static_argnames='size')
def _average(
  described: Lists,
  sources: Int[Array, 'n k2'],
  start: Int[Array, ''] | int,
  size: int,
) -> tuple[Lists, Int[Array, 's']]:
  """Local query expansion of some rows, and how many weights they have."""
  images = sources.shape[0]
  chosen = sources[start + jnp.arange(size)]
  index = described.index[chosen].reshape(size, -1)
  weight = described.weight[chosen].reshape(size, -1) / sources.shape[1]
  row = jnp.arange(size)[:, None]
  dense = jnp.zeros((size, images), weight.dtype)
  dense = dense.at[row, index].add(weight, mode='drop')
  index, length = _distinct(index, images)
  weight = dense.at[row, index].get(mode='fill', fill_value=0)
  return Lists(index, weight), length


@functools.partial(jax.jit, static_argnames='size')
def average_dense(
  described: Lists,
  sources: Int[Array, 'n k2'],
  start: Int[Array, ''] | int,
  size: int,
) -> Float[Array, 'n s']:
  """Local query expansion of some images, dense, a column for each."""
  chosen = sources[start + jnp.arange(size)]
  weight = described.weight[chosen] / sources.shape[1]
  dense = jnp.zeros((sources.shape[0], size), weight.dtype)
  column = jnp.arange(size)[:, None, None]
  return dense.at[described.index[chosen], column].add(weight, mode='drop')


def block_size(rows: int, width: int) -> int:
  """Rows of a block: as many as the bound lets, in blocks of equal size."""
  most = max(1, min(rows, _BLOCK // width))
  return -(-rows // -(-rows // most))


def in_blocks(function: Callable[[int], Any], rows: int, size: int) -> Any:
  """Concatenates function(start), `size` rows each, over all rows."""
  starts = [*range(0, rows - size, size), rows - size]
  parts = [function(start) for start in starts]
  # The last block ends with the rows, so that all have one shape.
  again = (len(starts) * size) - rows
  parts[-1] = jax.tree.map(lambda x: x[again:], parts[-1])
  return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
