"""Retrieval metrics from a distance matrix: CMC, mAP and mINP.

Synopsis:

  ranking = rank(distance, query_ids, gallery_ids, comparable,
                 unique_identities=True)
  print(ranking.cmc[0], ranking.mean_ap)

Nothing is sorted. The place of a gallery image in a query's list is the
number of images that come before it, so it is counted, and only for the
query's true matches: much faster than sorting all lists, and equal to a
stable sort down to the ties (the lower gallery index comes first). Distances
are compared as integers of the same order: then one comparison with a limit
that is one higher for earlier images settles the ties as well.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

# Comparisons held at once: a block of queries that stays in a cache.
_BLOCK = 1 << 21


class Ranking(NamedTuple):
  """Metrics of one query set against one gallery, as fractions of 1.

  Attributes:
    cmc: [max_rank], entry r the share of queries with a true match among the
      first r + 1 places.
    mean_ap: mean over queries of the mean precision at the true matches.
    mean_inp: mean over queries of the number of true matches divided by the
      place of the last one (Ye et al., TPAMI 2021).
    queries: number of queries that the means are taken over.
    skipped: number of queries left out for want of a comparable true match.
  """

  cmc: Float[Array, 'max_rank']
  mean_ap: Float[Array, '']
  mean_inp: Float[Array, '']
  queries: Int[Array, '']
  skipped: Int[Array, '']


def rank(
  distance: Float[Array | np.ndarray, 'q g'],
  query_ids: Int[Array | np.ndarray, 'q'],
  gallery_ids: Int[Array | np.ndarray, 'g'],
  comparable: Bool[Array | np.ndarray, 'q g'] | None = None,
  unique_identities: bool = False,
  max_rank: int = 20,
  average_precision: str = 'hits',
) -> Ranking:
  """Ranks the gallery for each query and averages over the queries.

  Pairs that are not comparable are taken out before ranking. The identities
  must be known on the host (they decide the shapes); the distances may be
  traced, so the function works inside `jit`.

  With p_h = h / r_h, the precision at a query's h-th of H true matches, found
  at place r_h (from 1), its average precision is

    'hits'       1 / H * sum_h p_h
    'trapezoid'  1 / H * sum_h (b_h + p_h) / 2, where b_h = (h - 1) / (r_h - 1)
                 is the precision just before that match, and 1 if r_h = 1.

  The first is what cross-modality papers report. The second, the area under
  straight lines between the points of recall and precision, is that of the
  evaluation code of Market-1501 (Zheng et al., "Scalable Person
  Re-identification: A Benchmark", ICCV 2015). It is never the larger one.

  Args:
    distance: [Nq, Ng], finite; smaller is more alike. A NaN or an infinity
      between comparable images makes every metric NaN.
    query_ids: [Nq] identities.
    gallery_ids: [Ng] identities.
    comparable: [Nq, Ng], False where a gallery image is hidden from a query;
      None hides nothing.
    unique_identities: if true, CMC counts identities in place of images: only
      the first image of each identity stays in the list (the SYSU-MM01
      convention). AP and INP count images in any case.
    max_rank: length of the CMC curve.
    average_precision: 'hits' or 'trapezoid'.

  Returns:
    The metrics. Queries without a comparable true match are left out of the
    means; if none is left, the means are NaN.

  Example:
    >>> distance = np.array([[0.2, 0.1, 0.4]])
    >>> found = rank(distance, np.array([7]), np.array([7, 8, 7]), max_rank=3)
    >>> found.cmc.tolist(), round(float(found.mean_ap), 3)
    ([0.0, 1.0, 1.0], 0.583)

  Raises:
    ValueError: if the shapes do not fit together, or on another
      `average_precision`.
  """
  if average_precision not in ('hits', 'trapezoid'):
    raise ValueError(
      "The average precision is 'hits' or 'trapezoid', not "
      f'{average_precision!r}.'
    )
  query_ids, gallery_ids = np.asarray(query_ids), np.asarray(gallery_ids)
  shape = (len(query_ids), len(gallery_ids))
  if distance.shape != shape or 0 in shape:
    raise ValueError(
      f'A distance matrix of shape {distance.shape} does not fit '
      f'{shape[0]} queries and {shape[1]} gallery images.'
    )
  if comparable is not None and comparable.shape != shape:
    raise ValueError(
      f'comparable has shape {comparable.shape}, the distances {shape}.'
    )
  matches = _matches(query_ids, gallery_ids)
  groups = None
  if unique_identities:
    groups = _matches(np.unique(gallery_ids), gallery_ids)
  entries = matches.shape[1] * shape[1]
  if groups is not None:
    entries = max(entries, groups.size)
  block = max(1, min(shape[0], _BLOCK // entries))
  trapezoid = average_precision == 'trapezoid'
  return _rank(
    distance, matches, groups, comparable, max_rank, block, trapezoid
  )


def _matches(
  query_ids: Int[np.ndarray, 'q'], gallery_ids: Int[np.ndarray, 'g']
) -> Int[np.ndarray, 'q k']:
  """Gallery rows of each query's identity, padded at the end with Ng."""
  order = np.argsort(gallery_ids, kind='stable')
  first = np.searchsorted(gallery_ids[order], query_ids, side='left')
  last = np.searchsorted(gallery_ids[order], query_ids, side='right')
  width = max(1, int(np.max(last - first)))
  places = first[:, None] + np.arange(width)[None, :]
  rows = order[np.minimum(places, len(order) - 1)]
  return np.where(places < last[:, None], rows, len(order)).astype(np.int32)


@functools.partial(jax.jit, static_argnames=('max_rank', 'block', 'trapezoid'))
def _rank(
  distance: Float[Array, 'q g'],
  matches: Int[Array, 'q k'],
  groups: Int[Array, 'i w'] | None,
  comparable: Bool[Array, 'q g'] | None,
  max_rank: int,
  block: int,
  trapezoid: bool,
) -> Ranking:
  if comparable is None:
    comparable = jnp.ones(distance.shape, bool)
  distance = distance.astype(jnp.result_type(jnp.float32, distance.dtype))
  broken = jnp.any(comparable & ~jnp.isfinite(distance))
  distance = _keys(jnp.where(comparable, distance, jnp.inf))
  counted, first, ap, inp = _in_blocks(
    lambda d, c, m: _judge(d, c, m, groups, trapezoid),
    block,
    distance,
    comparable,
    matches,
  )
  queries = jnp.sum(counted, dtype=jnp.int32)
  reached = first[:, None] <= jnp.arange(max_rank)[None, :]

  def mean(values: Array) -> Array:
    weight = counted.reshape((-1,) + (1,) * (values.ndim - 1))
    total = jnp.sum(jnp.where(weight, values, 0), axis=0) / queries
    return jnp.where(broken, jnp.nan, total)

  skipped = distance.shape[0] - queries
  return Ranking(mean(reached), mean(ap), mean(inp), queries, skipped)


def _in_blocks(judge: Callable, block: int, *queries: Array) -> list[Array]:
  """Maps `judge` over the leading axis, `block` rows at a time."""
  size = queries[0].shape[0]
  # Padding compiles one body, where lax.map's batch_size compiles two.
  blocks = []
  for x in queries:
    padded = jnp.pad(x, [(0, -size % block)] + [(0, 0)] * (x.ndim - 1))
    blocks.append(padded.reshape((-1, block, *x.shape[1:])))
  results = lax.map(lambda rows: jax.vmap(judge)(*rows), tuple(blocks))
  return [x.reshape(-1)[:size] for x in results]


def _keys(distance: Float[Array, 'q g']) -> Int[Array, 'q g']:
  """Integers in the order of the distances, equal where these are equal."""
  kind = jnp.dtype(f'int{8 * distance.dtype.itemsize}')
  without_sign = jnp.where(distance == 0, 0, distance)
  bits = lax.bitcast_convert_type(without_sign, kind)
  return jnp.where(bits < 0, bits ^ jnp.iinfo(kind).max, bits)


def _before(
  keys: Int[Array, 'g'], limit: Int[Array, '*k'], row: Int[Array, '*k']
) -> Bool[Array, '*k g']:
  """Which gallery images come before the image `row` of the key `limit`."""
  shape = (1,) * limit.ndim + (-1,)
  limit, row = limit[..., None], row[..., None]
  earlier = jnp.arange(keys.shape[-1]).reshape(shape) < row
  return keys.reshape(shape) < jnp.where(earlier, limit + 1, limit)


def _judge(
  keys: Int[Array, 'g'],
  comparable: Bool[Array, 'g'],
  matches: Int[Array, 'k'],
  groups: Int[Array, 'i w'] | None,
  trapezoid: bool,
) -> tuple[Bool[Array, ''], Int[Array, ''], Float[Array, ''], Float[Array, '']]:
  """One query: does it count, place of its first match, AP and INP."""
  size = keys.shape[0]
  row = jnp.minimum(matches, size - 1)
  valid = (matches < size) & comparable[row]
  before = _before(keys, keys[row], row)
  # On a CPU sums of floats are twice as fast; these are exact up to 2^24.
  place = jnp.sum(before.astype(jnp.float32), axis=1).astype(jnp.int32)
  place = jnp.where(valid, place, size)
  number = jnp.sum(valid)
  hits = jnp.sum(place[None, :] <= place[:, None], axis=1)
  precision = hits / (place + 1)
  if trapezoid:
    earlier = jnp.where(place == 0, 1, (hits - 1) / jnp.maximum(place, 1))
    precision = (earlier + precision) / 2
  precision = jnp.where(valid, precision, 0)
  at_least_one = jnp.maximum(number, 1)
  last = jnp.max(jnp.where(valid, place, 0))
  if groups is None:
    first = jnp.min(place)
  else:
    best = row[jnp.argmin(place)]
    ahead = jnp.pad(_before(keys, keys[best], best), (0, 1))
    first = jnp.sum(jnp.any(ahead[groups], axis=1))
  return (
    number > 0,
    first.astype(jnp.int32),
    jnp.sum(precision) / at_least_one,
    number / (last + 1),
  )
