"""Several splits of one dataset: a model for each, and the mean of them.

Synopsis:

  report = run_trials(config, workdir, train=True)
  print(report['table'])

RegDB's protocol has ten splits of its identities, and the people that a model
of one split was trained on are tested in another. So every split is a run of
its own in WORKDIR/trial_1, WORKDIR/trial_2, ...
"""

import json
import os
import pathlib
from typing import Any

import jax
import ml_collections

from jaxreid import checkpoint, processes, results, showing, teacher
from jaxreid import train as single
from jaxreid.evaluation.table import Result, format_table, mean_of_splits
from jaxreid.workdir import claim, open_workdir, to_json


def run_trials(
  config: ml_collections.ConfigDict, workdir: str | os.PathLike, train: bool
) -> dict[str, Any]:
  """Trains (or goes on with) and evaluates every run of `dataset.trials`.

  All of them are opened before the first is trained, so that a split that is
  not prepared shows at once. A finished one is not repeated.

  Args:
    config: with the names of the splits in `dataset.trials`.
    workdir: holds one folder per split, and the joined results.
    train: whether to train; otherwise each folder must hold a run.

  Returns:
    What results.json holds: 'results' (search -> means over the splits),
    'trials' (split -> its own results), 'config' and 'table' (Markdown).

  Raises:
    ValueError: if the config, the data or a workdir does not fit.
    RunError: as `jaxreid.train` does.
  """
  folder = open_workdir(workdir, config, exists=not train)
  parts = {name: _part(config, name) for name in config.dataset.trials}
  fingerprints, steps = [], {}
  for name, part in parts.items():
    run = _open(part, folder / name, train)
    fingerprints.append(run.test.fingerprint)
    steps[name] = run.setup.total_steps
  claim(folder, config, ' '.join(fingerprints))
  found = {}
  for name, part in parts.items():
    processes.say(f'{name} of {len(parts)}')
    before = _finished(folder / name, part, steps[name]) if train else None
    found[name] = before or _run(part, folder / name, train)
    jax.clear_caches()  # each split has jitted functions of its own
  joined = mean_of_splits(
    [
      {search: Result(**values) for search, values in split.items()}
      for split in found.values()
    ]
  )
  report = {
    'results': {name: result._asdict() for name, result in joined.items()},
    'trials': found,
    'config': config.to_dict(),
    'dataset_fingerprint': fingerprints,
    'git_commit': results.git_commit(),
    'table': format_table(joined)
    + f' Trials: {len(parts)} splits of the identities, a model for each.'
    + _unfinished(folder, parts, steps),
  }
  results.write_joined(folder, report)
  showing.show_joined(folder)
  return report


def _part(
  config: ml_collections.ConfigDict, name: str
) -> ml_collections.ConfigDict:
  part = config.copy_and_resolve_references()
  part.dataset.config, part.dataset.trials = name, ()
  if part.get('teacher'):  # a run of all splits, too
    part.teacher = str(pathlib.Path(part.teacher, name))
  return part


def _open(
  config: ml_collections.ConfigDict, folder: pathlib.Path, train: bool
) -> single.Run:
  if train:
    return teacher.open_run(config, folder)
  return single.open_run(config, folder, exists=True)


def _run(
  config: ml_collections.ConfigDict, folder: pathlib.Path, train: bool
) -> dict[str, Any]:
  run = _open(config, folder, train)
  if train:
    teacher.train(run)
  report = single.evaluate(run)
  processes.say(report['table'])
  return report['results']


def _finished(
  folder: pathlib.Path, config: ml_collections.ConfigDict, steps: int
) -> dict[str, Any] | None:
  """The results of a run that ended with this very config.

  Results alone are no proof: a run can be evaluated on its way.
  """
  path = folder / results.RESULTS
  if not path.exists():
    return None
  report = json.loads(path.read_text())
  last, reported = _steps(folder, config)
  if (
    last != steps
    or report['config'] != json.loads(to_json(config))
    or (report['checkpoint'] or {}).get('step') != reported
  ):
    return None
  return report['results']


def _unfinished(
  folder: pathlib.Path,
  parts: dict[str, ml_collections.ConfigDict],
  steps: dict[str, int],
) -> str:
  """What the table says of models that were evaluated on their way."""
  reached = {
    name: _steps(folder / name, part)[0] for name, part in parts.items()
  }
  on_their_way = [
    f'{name} (step {reached[name]} of {steps[name]})'
    for name in parts
    if reached[name] != steps[name]
  ]
  if not on_their_way:
    return ''
  return f' Not trained to the end: {", ".join(on_their_way)}.'


def _steps(
  folder: pathlib.Path, config: ml_collections.ConfigDict
) -> tuple[int | None, int | None]:
  """Steps of the last checkpoint and of the one that is reported."""
  keep_best = bool(config.dataset.validation_identities)
  with checkpoint.open_checkpoints(folder, keep_best) as checkpoints:
    reported = checkpoint.reported_step(checkpoints, keep_best)
    return checkpoints.latest_step(), reported
