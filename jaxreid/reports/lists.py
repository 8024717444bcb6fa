"""Ranked lists of a few queries, with their pictures, for a report.

Synopsis:

  lists = find(config, test, search, embedded)
  lists['worst'][0]['places'][0]['image']      # a data URI
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxreid.data.source import Records, Table
from jaxreid.evaluation.embedding import Embedded
from jaxreid.evaluation.protocols import Protocol
from jaxreid.evaluation.retrieval import CHOICES, RankedList, find_lists

QUERIES = 4  # ranked lists of each choice
_AMONG = 48  # extreme queries of which they are the first of each person
_HEIGHT = 128  # of the pictures in lists, at most


def find(
  config: ml_collections.ConfigDict,
  test: Table,
  search: Protocol,
  embedded: Mapping[str, Embedded],
) -> dict[str, list[dict[str, Any]]]:
  """The lists of random, best and worst queries, fit for JSON.

  The best and the worst are of different people, as far as there are any.

  Args:
    config: of the run.
    test: the test table.
    search: whose first trial is shown.
    embedded: branch -> test images.
  """
  shown = {}
  for which in CHOICES:
    lists = find_lists(
      embedded,
      search,
      config.evaluation.test_distance,
      which,
      QUERIES if which == 'random' else _AMONG,
      seed=config.seed,
    )
    if which != 'random':
      lists = _of_different_people(lists, test.records)
    shown[which] = [_show(found, test) for found in lists]
  return shown


def encode(pixels: UInt8[np.ndarray, 'h w 3'], height: int = _HEIGHT) -> str:
  """A JPEG as a data URI, made smaller if it is higher than `height`."""
  image = Image.fromarray(np.asarray(pixels))
  if image.height > height:
    width = max(1, round(image.width * height / image.height))
    image = image.resize((width, height), Image.Resampling.LANCZOS)
  stream = io.BytesIO()
  image.save(stream, 'JPEG', quality=82, optimize=True)
  code = base64.b64encode(stream.getvalue()).decode()
  return f'data:image/jpeg;base64,{code}'


def _of_different_people(
  lists: Sequence[RankedList], records: Records
) -> list[RankedList]:
  """The first of each person, who may have all of the worst; then others."""
  first: dict[int, RankedList] = {}
  for found in lists:
    first.setdefault(int(records.identity[found.query]), found)
  chosen = [*first.values()]
  others = [found for found in lists if all(found is not c for c in chosen)]
  return (chosen + others)[:QUERIES]


def _show(found: RankedList, test: Table) -> dict[str, Any]:
  def show(row: int) -> dict[str, Any]:
    return {
      'image': encode(test.images[row]),
      'identity': int(test.records.identity[row]),
      'camera': int(test.records.camera[row]),
    }

  places = zip(
    found.gallery.tolist(),
    found.distance.tolist(),
    found.right.tolist(),
    strict=True,
  )
  return {
    'query': show(found.query),
    'average_precision': round(found.average_precision, 4),
    'places': [
      {**show(row), 'distance': round(distance, 6), 'right': right}
      for row, distance, right in places
    ],
  }
