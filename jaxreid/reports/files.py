"""What the folder of a run holds, as a report needs it.

Synopsis:

  run = read_run(workdir)
  run.results['results'], run.metrics['loss'], run.pictures['examples']

Whatever is not there is empty.
"""

import json
import pathlib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxreid.reports import data, lists
from jaxreid.workdir import CONFIG

_WIDEST = 1600  # pixels of a method's picture


class RunFiles(NamedTuple):
  """What a workdir holds; {} or None for what it lacks.

  Attributes:
    name: of the folder.
    config: config.json.
    results: results.json.
    metrics: name -> (step, value) pairs, of metrics.jsonl.
    data: report.json.
    pictures: name -> data URI.
  """

  name: str
  config: dict[str, Any]
  results: dict[str, Any]
  metrics: dict[str, list[tuple[float, float]]]
  data: dict[str, Any]
  pictures: dict[str, str]


def read_run(workdir: pathlib.Path) -> RunFiles:
  """What the folder holds.

  Raises:
    ValueError: if the folder holds no run.
  """
  config = _read_json(workdir / CONFIG)
  if not config:
    raise ValueError(
      f'{workdir} holds no run: {CONFIG} cannot be read; give the --workdir '
      'of a run of jaxreid.main'
    )
  return RunFiles(
    workdir.absolute().name,
    config,
    _read_json(workdir / 'results.json'),
    read_metrics(workdir / 'metrics.jsonl'),
    data.read(workdir) or {},
    _read_pictures(workdir / 'pictures'),
  )


def read_metrics(path: pathlib.Path) -> dict[str, list[tuple[float, float]]]:
  """Name -> (step, value) of every whole line; {} if there is no file."""
  metrics: dict[str, list[tuple[float, float]]] = {}
  if not path.exists():
    return metrics
  for line in path.read_text().splitlines():
    try:
      values = json.loads(line)
      step = float(values.pop('step'))
    except (ValueError, KeyError, AttributeError):
      continue  # torn by a crash
    for name, value in values.items():
      metrics.setdefault(name, []).append((step, float(value)))
  return metrics


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError):
    return {}


def _read_pictures(folder: pathlib.Path) -> dict[str, str]:
  """The method's pictures; ranked lists are drawn by the page itself."""
  pictures = {}
  for path in sorted(folder.glob('[!.]*.png')):
    if path.stem == 'ranked_lists':
      continue
    try:
      with Image.open(path) as image:
        picture = image.convert('RGB')
    except (OSError, SyntaxError):
      continue
    height = picture.height * min(1, _WIDEST / picture.width)
    pictures[path.stem] = lists.encode(np.asarray(picture), round(height))
  return pictures
