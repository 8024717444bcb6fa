"""What a report shows of the test images, measured where they are embedded.

Synopsis:

  data = collect(config, train, test, protocols, embedded)
  write(workdir, data)      # WORKDIR/report.json
  data = read(workdir)      # None if it is not there

It is small (a few hundred kilobytes) and whole: with it a page can be written
anew without the dataset, the checkpoint or an accelerator.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreid.data.source import INFRARED, VISIBLE, Records, Table
from jaxreid.distance import pairwise_euclidean
from jaxreid.evaluation.embedding import Embedded
from jaxreid.evaluation.protocols import Protocol
from jaxreid.reports import lists
from jaxreid.workdir import replace_text

FILE = 'report.json'
COLORED = 8  # people with a colour of their own on the map
_PEOPLE = 40  # of whom pairs and points are taken
_IMAGES = 12  # of each of them and set
_BINS = 50


def collect(
  config: ml_collections.ConfigDict,
  train: Table,
  test: Table,
  protocols: Sequence[Protocol],
  embedded: Mapping[str, Embedded],
) -> dict[str, Any]:
  """Everything that a report needs beside results and metrics.

  Args:
    config: of the run.
    train: the training table, for its counts.
    test: the test table.
    protocols: the searches; the lists are of the first that can be done.
    embedded: branch -> test images, as the evaluation made them.

  Returns:
    A dictionary fit for JSON: 'counts' (split -> images and people per
    camera), 'search' and 'lists' (choice -> ranked lists with pictures),
    'map' (points on the first two principal components) and 'distances' (of
    positive and negative pairs, within and across modalities).
  """
  data: dict[str, Any] = {
    'counts': {
      'train': count(train.records),
      'test': count(test.records),
    }
  }
  possible = [
    search
    for search in protocols
    if {search.query_modality, search.gallery_modality} <= embedded.keys()
  ]
  if possible:
    data['search'] = possible[0].name
    data['lists'] = lists.find(config, test, possible[0], embedded)
  sets = _sets(embedded, test.records, config.seed)
  if sets:
    data['map'] = _map(sets)
    data['distances'] = _distances([s for s in sets if not s.number])
  return data


def write(workdir: pathlib.Path, data: Mapping[str, Any]):
  """Writes WORKDIR/report.json."""
  replace_text(workdir / FILE, json.dumps(data) + '\n')


def read(workdir: pathlib.Path) -> dict[str, Any] | None:
  """What `write` wrote; None if nothing did."""
  try:
    return json.loads((workdir / FILE).read_text())
  except (OSError, ValueError):
    return None


def count(records: Records) -> list[dict[str, Any]]:
  """Images and people of each camera, in the order of cameras."""
  kinds = {VISIBLE: 'visible', INFRARED: 'infrared'}
  counts = []
  for camera in np.unique(records.camera).tolist():
    for code, modality in kinds.items():
      mine = (records.camera == camera) & (records.modality == code)
      if mine.any():
        people = np.unique(records.identity[mine])
        counts.append(
          {
            'camera': camera,
            'modality': modality,
            'images': int(mine.sum()),
            'identities': people.tolist(),
          }
        )
  return counts


class _Set(NamedTuple):
  """Vectors of some test images by one branch."""

  name: str
  number: int  # of the embedding, where an image has several
  vectors: Float[np.ndarray, 'n d']
  identity: Int[np.ndarray, 'n']
  location: Int[np.ndarray, 'n']


def _sets(
  embedded: Mapping[str, Embedded], records: Records, seed: int
) -> list[_Set]:
  """The same few people in every modality; XIV's X as a set of its own."""
  rng = np.random.default_rng(seed)
  people = np.unique(records.identity)
  people = rng.permutation(people)[:_PEOPLE]
  sets = []
  for branch in ('visible', 'infrared'):
    if branch not in embedded:
      continue
    rows, features = embedded[branch]
    identity = records.identity[rows]
    chosen = np.concatenate(
      [_spread(np.flatnonzero(identity == person)) for person in people]
    )
    for number in range(features.shape[1]):
      name = f'{branch}, embedding {number + 1}' if number else branch
      sets.append(
        _Set(
          name,
          number,
          features[chosen, number],
          identity[chosen],
          records.location[rows[chosen]],
        )
      )
  return sets


def _spread(rows: Int[np.ndarray, 'n']) -> Int[np.ndarray, 'm']:
  """At most `_IMAGES` of the rows, evenly: from all cameras."""
  kept = min(len(rows), _IMAGES)
  return rows[np.arange(kept) * len(rows) // max(kept, 1)]


def _map(sets: Sequence[_Set]) -> dict[str, Any]:
  """All vectors on their first two principal components."""
  vectors = np.concatenate([s.vectors for s in sets]).astype(np.float64)
  centred = vectors - vectors.mean(axis=0)
  # Of the smaller side: there may be more dimensions than points or fewer.
  left, scale, _ = np.linalg.svd(centred, full_matrices=False)
  places = left[:, :2] * scale[:2]
  if places.shape[1] < 2:
    places = np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
  share = np.square(scale) / max(np.square(scale).sum(), 1e-12)
  people = list(dict.fromkeys(np.concatenate([s.identity for s in sets])))
  points, start = [], 0
  for i, part in enumerate(sets):
    for place, person in zip(places[start:], part.identity, strict=False):
      points.append(
        [
          round(float(place[0]), 4),
          round(float(place[1]), 4),
          i,
          people.index(person),
        ]
      )
    start += len(part.vectors)
  return {
    'sets': [s.name for s in sets],
    'identities': [int(person) for person in people],
    'explained': [round(float(x), 4) for x in share[:2]],
    'points': points,
  }


def _distances(sets: Sequence[_Set]) -> list[dict[str, Any]]:
  """Distances of pairs within each set and across each two, on one axis."""
  pairs = [(a, b) for i, a in enumerate(sets) for b in sets[i:]]
  measured = [(a, b, *_pairs(a, b)) for a, b in pairs]
  measured = [m for m in measured if len(m[2]) and len(m[3])]
  if not measured:
    return []
  top = max(float(max(m[2].max(), m[3].max())) for m in measured)
  edges = np.linspace(0, top or 1.0, _BINS + 1)
  return [
    {
      'pairs': f'{a.name} - {b.name}',
      'top': round(float(edges[-1]), 5),
      'positive': _shares(same, edges),
      'negative': _shares(others, edges),
      'mean_positive': round(float(same.mean()), 5),
      'mean_negative': round(float(others.mean()), 5),
      'nearer': round(_nearer(same, others), 5),
      'same_place': in_place,
      'count': [len(same), len(others)],
    }
    for a, b, same, others, in_place in measured
  ]


def _pairs(
  a: _Set, b: _Set
) -> tuple[Float[np.ndarray, 'p'], Float[np.ndarray, 'q'], bool]:
  """Distances of pairs of one person, of two, and whether of one place, too.

  Pairs of one location say little, so they are left out where others are.
  """
  distance = np.asarray(pairwise_euclidean(a.vectors, b.vectors))
  same = a.identity[:, None] == b.identity[None, :]
  different = a.location[:, None] != b.location[None, :]
  once = np.ones_like(same)
  if a is b:
    once = np.triu(once, k=1)
  in_place = not (same & different & once).any()
  kept: Bool[np.ndarray, 'n m'] = once if in_place else once & different
  return distance[same & kept], distance[~same & kept], in_place


def _shares(
  values: Float[np.ndarray, 'n'], edges: Float[np.ndarray, 'e']
) -> list[float]:
  counts, _ = np.histogram(values, edges)
  return [round(float(x), 5) for x in counts / len(values)]


def _nearer(
  same: Float[np.ndarray, 'p'], others: Float[np.ndarray, 'q']
) -> float:
  """The chance that a pair of one person is nearer than one of two."""
  others = np.sort(others)
  below = np.searchsorted(others, same, 'left')
  upto = np.searchsorted(others, same, 'right')
  return float(1 - (below + upto).mean() / (2 * len(others)))
