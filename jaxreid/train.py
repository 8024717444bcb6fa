"""A run from start to results: restore, step, log, save, evaluate.

Synopsis:

  run = open_run(config, workdir)   # everything that can be wrong, is found
  train(run)
  evaluate(run)

WORKDIR holds config.json, metrics.jsonl, tensorboard/, checkpoints/ and, at
the end, results.json, results.md, pictures/, report.html and MODEL_CARD.md. The
same command after a kill goes on from the last checkpoint and ends with the
same bits.
"""

import os
import pathlib
import signal
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
from clu import parameter_overview, profiler
from jaxtyping import Array

from jaxreid import (
  checkpoint,
  dispatch,
  experiment,
  health,
  processes,
  results,
  showing,
  slim,
)
from jaxreid.branches import BRANCHES
from jaxreid.data.source import Table
from jaxreid.evaluation.protocols import Protocol
from jaxreid.experiment import Setup
from jaxreid.health import NonFiniteLossError as NonFiniteLossError
from jaxreid.health import RunError as RunError
from jaxreid.metric_writer import MetricWriter, ProgressLine
from jaxreid.train_state import TrainState
from jaxreid.workdir import claim, open_workdir


class Run(NamedTuple):
  """A run that is ready to go.

  Attributes:
    config: as given.
    workdir: an existing folder.
    setup: the assembled experiment.
    test: the test table.
    protocols: the searches on it that the results report.
  """

  config: ml_collections.ConfigDict
  workdir: pathlib.Path
  setup: Setup
  test: Table
  protocols: list[Protocol]


def open_run(
  config: ml_collections.ConfigDict,
  workdir: str | os.PathLike,
  exists: bool = False,
) -> Run:
  """Checks the config, the data and the workdir, and assembles the run.

  Args:
    config: of the run.
    workdir: its folder.
    exists: whether the folder must hold a run already; it is made otherwise.

  Raises:
    ValueError: if the config, the data or the workdir does not fit.
  """
  folder = open_workdir(workdir, config, exists)
  setup = experiment.build(config)
  test = experiment.open_split(config, 'test')
  protocols = results.searches(config, test)
  results.check_rerank(config, setup)
  # Last, so that a mistake leaves no workdir that refuses its correction.
  claim(folder, config, test.fingerprint)
  return Run(config, folder, setup, test, protocols)


def train(run: Run) -> TrainState:
  """Trains to the end of the schedule, from the last checkpoint if any.

  On SIGTERM the state is saved and the process exits with status 0; of many
  processes all do, at the next step that is logged.

  Raises:
    NonFiniteLossError: naming the step, the metrics and the last checkpoint.
  """
  keep_best = bool(run.config.dataset.validation_identities)
  with checkpoint.open_checkpoints(run.workdir, keep_best) as checkpoints:
    state = _restore(run, checkpoints, checkpoints.latest_step())
    start = int(state.step)
    if start:
      processes.say(f'going on from the checkpoint of step {start}')
    elif processes.is_first():
      _write_overview(state, run.workdir)
    with (
      MetricWriter(run.workdir, start, jax.process_index()) as writer,
      _Terminated() as terminated,
      processes.together(),
    ):
      state = _loop(run, state, checkpoints, writer, terminated)
      # A second signal must not cut off the save.
      checkpoints.wait_until_finished()
    if terminated.agreed(due=True):
      processes.say(
        f'saved step {int(state.step)} on SIGTERM; the same command goes on '
        'from there'
      )
      raise SystemExit(0)
  return state


def evaluate(run: Run) -> dict[str, Any]:
  """Evaluates the workdir's checkpoint on the test split; writes the results.

  The best checkpoint if the run held out validation identities, else the last;
  without any, the network of `config.weights` as it was released.

  Returns:
    What results.json holds.

  Raises:
    RunError: if there is no checkpoint, one of another model, or one whose
      embeddings are not finite.
  """
  keep_best = bool(run.config.dataset.validation_identities)
  with checkpoint.open_checkpoints(run.workdir, keep_best) as checkpoints:
    step = checkpoint.reported_step(checkpoints, keep_best)
    if step is None and not run.config.weights:
      raise RunError(
        f'{run.workdir} has no checkpoint to evaluate; train there first'
      )
    run, state, branches = _restore_for_test(run, checkpoints, step)
  setup, config = run.setup, run.config
  try:
    embedded = results.embed_test(config, setup, run.test, state, branches)
    report = results.evaluate_test(
      config, setup, run.test, run.protocols, state, embedded
    )
  except ValueError as error:  # such as embeddings that are not finite
    raise RunError(str(error)) from error
  report |= _tell(run, report, step, branches)
  results.write(run.workdir, report)
  showing.show(
    run.workdir, config, setup, run.test, run.protocols, state, embedded
  )
  return report


def _tell(
  run: Run,
  report: Mapping[str, Any],
  step: int | None,
  branches: Collection[str],
) -> dict[str, Any]:
  """What was evaluated: the checkpoint or the weights, and the table's note."""
  which = 'best' if run.config.dataset.validation_identities else 'last'
  made: dict[str, Any] = {'checkpoint': {'step': step, 'which': which}}
  weights = run.setup.weights
  made['weights'] = weights and weights.source
  of = f'Checkpoint: {which}, step {step}.'
  if step is None and weights is not None:
    made['checkpoint'] = None
    of = f'Weights: {weights.source["file"]}, as released.'
  table = (
    f'{report["table"]} {of} Feature: {report["test_feature"]}, distance: '
    f'{run.config.evaluation.test_distance}.'
  )
  missing = sorted(set(BRANCHES) - set(branches))
  if missing:
    table += (
      f' Left out are searches of {", ".join(missing)} images, which this slim '
      'checkpoint cannot embed.'
    )
  return made | {'table': table}


def _restore(run: Run, checkpoints: Any, step: int | None) -> TrainState:
  """The checkpoint of `step`; the state before the first step if None."""
  try:
    if step is None:
      return run.setup.init()
    checkpoint.check_trained_on(checkpoints, step, _trained_on(run))
    return checkpoint.restore(checkpoints, run.setup.shapes(), step)
  except ValueError as error:
    raise RunError(str(error)) from error


def _restore_for_test(
  run: Run, checkpoints: Any, step: int | None
) -> tuple[Run, TrainState, tuple[str, ...]]:
  """The run, its state and what can be embedded: a slim one does with less."""
  try:
    if step is None:
      return run, _restore(run, checkpoints, step), BRANCHES
    size = tuple(run.config.dataset.image_size)
    opened = slim.open_slim(run.setup, size, checkpoints, step)
    if opened is None:
      return run, _restore(run, checkpoints, step), BRANCHES
    checkpoint.check_trained_on(checkpoints, step, _trained_on(run))
  except ValueError as error:
    raise RunError(str(error)) from error
  return run._replace(setup=opened.setup), opened.state, opened.branches


def _trained_on(run: Run) -> dict[str, str]:
  return {name: run.config.dataset[name] for name in ('name', 'config')}


def _loop(
  run: Run,
  state: TrainState,
  checkpoints: Any,
  writer: MetricWriter,
  terminated: '_Terminated',
) -> TrainState:
  config, setup = run.config, run.setup
  start, total = int(state.step), setup.total_steps
  progress = ProgressLine(total, setup.images_per_step, start)
  watch = health.CollapseWatch()
  unread: dict[int, Mapping[str, Array]] = {}
  if start == total == 0:
    checkpoint.save(checkpoints, state, trained_on=_trained_on(run))
  before = start
  for step, inputs in dispatch.dispatches(
    setup.feed, start, total, setup.steps_per_dispatch
  ):
    state, unread[step] = setup.step(
      state, setup.feed.pixels, inputs, setup.key
    )
    # Read once: the signal may come at any moment.
    asked = terminated.agreed(step % config.log_every == 0)
    _profile(run, before - start, step - start, asked or step == total)
    first, before = before == start, step
    planned = step == total or step % config.checkpoint_every == 0
    if not (asked or planned or first or step % config.log_every == 0):
      continue
    read, said = health.read(unread, checkpoints, watch)
    for done, values in read.items():
      if done % config.log_every == 0 or done in (1, total):
        writer.write(done, values)
    values = read[step]
    if processes.is_first():
      progress(step, values)
      for sentence in said:
        progress.say(sentence)
    if asked or planned:
      health.check_finite(state, values, checkpoints)
      # An interrupted run is to leave the same numbers: no validation more or
      # less than planned.
      metrics = _validate(run, state, step, writer) if planned else {}
      checkpoint.save(checkpoints, state, metrics, _trained_on(run))
    if asked:
      break
  progress.close()
  return state


def _validate(
  run: Run, state: TrainState, step: int, writer: MetricWriter
) -> dict[str, float]:
  """Metrics that the checkpoint is judged by; {} without held-out people."""
  if not run.config.dataset.validation_identities:
    return {}
  metrics = results.evaluate_validation(run.config, run.setup, state)
  writer.write(step, metrics)
  return metrics


class _Terminated:
  """Whether this process, or one of its fellows, was asked to end."""

  def __init__(self):
    self._asked = False
    self._before: Any = None

  def __enter__(self) -> '_Terminated':
    self._before = signal.signal(signal.SIGTERM, self._handle)
    return self

  def __exit__(self, *error):
    signal.signal(signal.SIGTERM, self._before)

  def agreed(self, due: bool) -> bool:
    return processes.agreed(self._asked, due)

  def _handle(self, signum, frame):
    del signum, frame
    self._asked = True


def _profile(run: Run, before: int, done: int, last: bool):
  """Profiles `profile_steps` steps into WORKDIR/tensorboard, after ten.

  To the next dispatch, where these have several steps; called after each.
  """
  if not processes.is_first():
    return
  begin = 10 + -10 % (done - before)
  end = begin + run.config.profile_steps
  if begin == done < end and not last:
    profiler.start(str(run.workdir / 'tensorboard'))
  elif begin <= before < end and (last or done >= end):
    profiler.stop()


def _write_overview(state: TrainState, workdir: pathlib.Path):
  overview = parameter_overview.get_parameter_overview(
    state.params, include_stats=False
  )
  (workdir / 'parameters.txt').write_text(overview + '\n')
