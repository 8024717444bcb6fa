"""The nearest of very many vectors, exactly, in blocks.

Synopsis:

  blocks = Blocks(gallery, mesh, rows=65536)     # [N, M, D], memory-mapped
  distance, row = nearest(queries, blocks, k=10) # [Nq, k] each

The gallery passes the devices block by block, each device looking at its
share of the rows and keeping its k best; the matrix of all distances never
exists. Equal to sorting it, down to the ties: the lower row comes first.

A search of few queries is bound by reading the gallery. So the squared lengths
of its vectors are computed once and kept, and a search reads it once.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from jaxreid.distance import working_dtype

AXIS = 'data'
_QUERIES = 256  # at once: bounds the distances that a device holds
_SMALLEST = 1e-12  # squared distance, as in `jaxreid.distance`


class Block(NamedTuple):
  """Some rows of a gallery, on the devices.

  Attributes:
    start: row of the gallery that the block begins with.
    features: [rows, M, D], spread over the devices.
    squared: [rows, M] squared lengths of the vectors.
    valid: [rows] False for padding and for rows that are hidden.
  """

  start: int
  features: Float[Array, 'b m d']
  squared: Float[Array, 'b m']
  valid: Bool[Array, 'b']


class Blocks:
  """A gallery as an iterable of blocks of equal size.

  Iterate anew for each search: every block is moved to the devices when it is
  its turn. `list(blocks)` keeps all of them there, if they fit.
  """

  def __init__(
    self,
    gallery: Float[np.ndarray, 'n m d'],
    mesh: Mesh,
    rows: int = 65536,
    valid: Bool[np.ndarray, 'n'] | None = None,
    start: int = 0,
  ):
    """Nothing is read yet.

    Args:
      gallery: in memory or memory-mapped.
      mesh: of one axis, 'data' (`jaxreid.sharding.make_mesh`).
      rows: of a block; less for a smaller gallery, and rounded up to what
        the devices can share.
      valid: False for rows that must not be found; None for all.
      start: what the number of the gallery's first row is.
    """
    self._gallery, self._mesh, self._start = gallery, mesh, start
    # Few sizes, so that few programs are compiled.
    rows = min(rows, 1 << (max(len(gallery), 1) - 1).bit_length())
    self._rows = rows + -rows % mesh.size
    self._valid = np.ones(len(gallery), bool) if valid is None else valid
    self._squared: dict[int, Float[Array, 'b m']] = {}

  def __iter__(self) -> Iterator[Block]:
    """Yields the blocks in their order."""
    place = NamedSharding(self._mesh, PartitionSpec(AXIS))
    for start in range(0, len(self._gallery), self._rows):
      features = np.asarray(self._gallery[start : start + self._rows])
      valid = self._valid[start : start + self._rows]
      missing = self._rows - len(features)
      if missing:
        features = np.pad(features, ((0, missing), (0, 0), (0, 0)))
        valid = np.pad(valid, (0, missing))
      on_devices = jax.device_put(features, place)
      if start not in self._squared:
        self._squared[start] = _squared_lengths(on_devices)
      yield Block(
        self._start + start,
        on_devices,
        self._squared[start],
        jax.device_put(valid, place),
      )


@jax.jit
def _squared_lengths(vectors: Float[Array, '*n d']) -> Float[Array, '*n']:
  return jnp.sum(jnp.square(vectors.astype(working_dtype(vectors))), axis=-1)


def nearest(
  query: Float[np.ndarray, 'q m d'],
  blocks: Iterable[Block],
  k: int = 10,
  kind: str = 'sum',
) -> tuple[Float[np.ndarray, 'q k'], Int[np.ndarray, 'q k']]:
  """The k nearest rows of each query.

  Args:
    query: [Nq, Mq, D].
    blocks: of the gallery; they may be of different sizes and M.
    k: how many; fewer come back if the gallery has fewer.
    kind: 'sum' over pairs of vectors or 'plain', as in
      `jaxreid.distance.sum_over_modalities`; 'mean' over pairs, for blocks of
      different M.

  Returns:
    Distances, ascending, and rows. Where a query has fewer than k rows to
    find, the distance is infinite and the row -1.

  Raises:
    ValueError: if k is less than 1.
  """
  if k < 1:
    raise ValueError(f'k must be at least 1, not {k}')
  starts = range(0, len(query), _QUERIES)
  parts = [jnp.asarray(query[start : start + _QUERIES]) for start in starts]
  best = [_nothing(len(part), k) for part in parts]
  for block in blocks:
    step = _search(_mesh_of(block.features), kind)
    best = [
      step(part, *found, *block)
      for part, found in zip(parts, best, strict=True)
    ]
  if not best:
    return np.zeros((0, k), np.float32), np.zeros((0, k), np.int64)
  distance, row = (
    np.concatenate([np.asarray(found[i]) for found in best]) for i in (0, 1)
  )
  return distance, np.where(np.isinf(distance), -1, row).astype(np.int64)


def _nothing(queries: int, k: int) -> tuple[Array, Array]:
  return jnp.full((queries, k), jnp.inf), jnp.zeros((queries, k), jnp.int32)


def _mesh_of(array: Array) -> Mesh:
  place = array.sharding
  assert isinstance(place, NamedSharding)
  assert isinstance(place.mesh, Mesh)
  return place.mesh


@functools.cache
def _search(mesh: Mesh, kind: str):
  """One block's part of a search, compiled once per shapes."""

  def look(query, distance, row, start, features, squared, valid):
    """On one device, with its share of the rows."""
    k = distance.shape[1]
    count = len(features)
    found = _distances(query, features, squared, kind)
    found = jnp.where(valid[None, :], found, jnp.inf)
    # A search takes the first of equal ones.
    negative, place = lax.top_k(-found, min(k, count))
    first = start + lax.axis_index(AXIS) * count
    found = lax.all_gather(-negative, AXIS, axis=1, tiled=True)
    where = lax.all_gather(first + place, AXIS, axis=1, tiled=True)
    # Lower rows stand on the left, before this block and in it.
    together = jnp.concatenate([distance, found], axis=1)
    rows = jnp.concatenate([row, where], axis=1)
    negative, place = lax.top_k(-together, k)
    return -negative, jnp.take_along_axis(rows, place, axis=1)

  whole, share = PartitionSpec(), PartitionSpec(AXIS)
  return jax.jit(
    jax.shard_map(
      look,
      mesh=mesh,
      in_specs=(whole, whole, whole, whole, share, share, share),
      out_specs=(whole, whole),
      check_vma=False,
    )
  )


def _distances(
  query: Float[Array, 'q mq d'],
  features: Float[Array, 'b m d'],
  squared: Float[Array, 'b m'],
  kind: str,
) -> Float[Array, 'q b']:
  """`jaxreid.distance.sum_over_modalities` with known squared lengths.

  All pairs are one product, which reads the features once.
  """
  if kind == 'plain':
    query, features, squared = query[:, :1], features[:, :1], squared[:, :1]
  elif kind not in ('sum', 'mean'):
    raise ValueError(f"a distance is 'sum', 'mean' or 'plain', not {kind!r}")
  dtype = working_dtype(query, features)
  left, right = (
    x.astype(dtype).reshape(-1, x.shape[2]) for x in (features, query)
  )
  products = jnp.matmul(left, right.T, precision=lax.Precision.HIGHEST)
  products = products.reshape(*squared.shape, *query.shape[:2])
  both = squared[:, :, None, None] + _squared_lengths(query)[None, None]
  found = jnp.sqrt(jnp.maximum(both - 2 * products, _SMALLEST))
  found = found.transpose(2, 3, 0, 1)
  if kind == 'mean':
    return found.mean(axis=(1, 3))
  return found.sum(axis=(1, 3))
