"""What a search finds for single queries, to be looked at.

Synopsis:

  for found in find_lists(embeddings, protocol, which='worst', count=5):
    found.query, found.gallery, found.distance, found.right

Of a protocol's first trial, before re-ranking. Images that a query must not
be compared with (those of its own location) are in no list.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreid.distance import sum_over_modalities
from jaxreid.evaluation.embedding import Embedded
from jaxreid.evaluation.protocols import Protocol, Trial

CHOICES = ('random', 'best', 'worst')
_BLOCK = 256  # queries whose distances are held at once


class RankedList(NamedTuple):
  """The first places of one query's list.

  Attributes:
    query: row of the query.
    gallery: [k] rows of the gallery, the nearest first.
    distance: [k] distances.
    right: [k] True where the image shows the query's person.
    average_precision: of the whole list, as a fraction of 1 (by hits, as in
      `ranking.rank`).
  """

  query: int
  gallery: Int[np.ndarray, 'k']
  distance: Float[np.ndarray, 'k']
  right: Bool[np.ndarray, 'k']
  average_precision: float


def find_lists(
  embeddings: Mapping[str, Embedded],
  protocol: Protocol,
  test_distance: str = 'sum',
  which: str = 'random',
  count: int = 6,
  top: int = 10,
  seed: int = 0,
) -> list[RankedList]:
  """The lists of a few queries in the first trial of a protocol.

  Queries without a comparable true match are not chosen, as they do not count
  in the results.

  Args:
    embeddings: modality -> its images, as for `evaluate`.
    protocol: the search.
    test_distance: 'sum' or 'plain'; 'both' is shown by the sum.
    which: 'random' queries, or those of the 'best' or 'worst' average
      precision, extreme ones first.
    count: of queries; fewer if there are fewer.
    top: length of a list; shorter if fewer images are comparable.
    seed: of the random choice.

  Raises:
    ValueError: on another choice.
  """
  if which not in CHOICES:
    raise ValueError(f'queries are chosen {CHOICES}, not {which!r}')
  trial = protocol.trials[0]
  kind = 'sum' if test_distance == 'both' else test_distance
  query = embeddings[protocol.query_modality]
  gallery = embeddings[protocol.gallery_modality]

  def lists(queries: Int[np.ndarray, 'q']) -> list[RankedList]:
    distance = sum_over_modalities(
      jnp.asarray(_features(query, trial.query_rows[queries])),
      jnp.asarray(_features(gallery, trial.gallery_rows)),
      kind,
    )
    return [
      _list(trial, place, row, top)
      for place, row in zip(queries.tolist(), np.asarray(distance), strict=True)
    ]

  possible = np.flatnonzero(
    [_comparable_matches(trial, i).any() for i in range(len(trial.query_rows))]
  )
  if not len(possible):
    return []
  if which == 'random':
    rng = np.random.default_rng(seed)
    size = min(count, len(possible))
    return lists(np.sort(rng.choice(possible, size, replace=False)))
  judged = [
    found
    for start in range(0, len(possible), _BLOCK)
    for found in lists(possible[start : start + _BLOCK])
  ]
  judged.sort(
    key=lambda found: found.average_precision, reverse=which == 'best'
  )
  return judged[:count]


def _features(
  embedded: Embedded, rows: Int[np.ndarray, 'r']
) -> Float[np.ndarray, 'r m d']:
  place = {row: i for i, row in enumerate(embedded.rows.tolist())}
  return embedded.features[[place[row] for row in rows.tolist()]]


def _comparable(trial: Trial, query: int) -> Bool[np.ndarray, 'g']:
  location = trial.records.location
  return location[trial.gallery_rows] != location[trial.query_rows[query]]


def _comparable_matches(trial: Trial, query: int) -> Bool[np.ndarray, 'g']:
  same = trial.gallery_ids == trial.records.identity[trial.query_rows[query]]
  return same & _comparable(trial, query)


def _list(
  trial: Trial, query: int, distance: Float[np.ndarray, 'g'], top: int
) -> RankedList:
  """One query's list, ties in the order of the gallery."""
  order = np.argsort(distance, kind='stable')
  order = order[_comparable(trial, query)[order]]
  right = _comparable_matches(trial, query)[order]
  places = np.flatnonzero(right)
  precision = np.arange(1, len(places) + 1) / (places + 1)
  first = order[:top]
  return RankedList(
    int(trial.query_rows[query]),
    trial.gallery_rows[first],
    distance[first],
    right[:top],
    float(precision.mean()),
  )
