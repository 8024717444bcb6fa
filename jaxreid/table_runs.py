"""The runs that a table of a paper needs, each by the training command.

Synopsis:

  plan = Plan('synthetic_reid', 'sysu_mm01', 'short', seeds=3, out=folder)
  runs = plan_runs(table.rows, plan)
  failed = run_all(runs, parallel=1)

A run that has its results is not run again, a killed one goes on. Rows of
several tables that are the same run share its folder.
"""

import concurrent.futures
import fcntl
import hashlib
import json
import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

import tqdm

from jaxreid.published import Row

RESULTS = 'results.json'
LOG = 'log.txt'


class Plan(NamedTuple):
  """How the rows of a table are run.

  Attributes:
    dataset: name of the dataset.
    layout: whose protocol, if another than the dataset's own; else ''.
    schedule: 'default' (the config's own) or 'short'.
    seeds: runs of a row, with the seeds 0, 1, ...
    out: folder of the runs' folders.
    configs: folder of the config files.
    flags: overrides for every run.
  """

  dataset: str
  layout: str
  schedule: str
  seeds: int
  out: pathlib.Path
  configs: pathlib.Path
  flags: tuple[str, ...] = ()


class Run(NamedTuple):
  """A run.

  Attributes:
    folder: its workdir.
    command: what trains and evaluates it.
    after: folder of a run that has to be finished before; None for none.
  """

  folder: pathlib.Path
  command: tuple[str, ...]
  after: pathlib.Path | None = None


def plan_runs(rows: Sequence[Row], plan: Plan) -> list[Run]:
  """The runs of the rows, each once: seed 0 of all rows comes first."""
  runs: dict[pathlib.Path, Run] = {}
  for seed in range(plan.seeds):
    for row in rows:
      for run in plan_row(row, plan, seed):
        runs.setdefault(run.folder, run)
  # What others wait for must not wait behind them.
  return sorted(runs.values(), key=lambda run: run.after is not None)


def plan_row(row: Row, plan: Plan, seed: int) -> list[Run]:
  """The run of a row with a seed, which is the last; before it its teacher.

  All students of a config have one teacher, of seed 0.
  """
  if not row.teacher:
    return [_run(plan, row, row.argument, row.short_epochs, seed)]
  epochs = row.teacher_short_epochs
  teacher = _run(plan, row, row.teacher, epochs, 0)
  student = _run(
    plan,
    row,
    row.argument,
    row.short_epochs,
    seed,
    (f'--config.teacher={teacher.folder}',),
  )
  return [teacher, student._replace(after=teacher.folder)]


def _run(
  plan: Plan,
  row: Row,
  argument: str,
  epochs: float,
  seed: int,
  more: tuple[str, ...] = (),
) -> Run:
  arguments = [f'dataset={plan.dataset}', argument]
  if plan.dataset == 'regdb':
    arguments.append('trial=all')
  config = f'{row.config}:{",".join(filter(None, arguments))}'
  ours = []
  if plan.layout:
    ours.append(f'--config.dataset.layout={plan.layout}')
  if plan.schedule == 'short':
    ours += short_schedule(epochs)
  name = _name(config, [*row.flags, *plan.flags, *ours], seed)
  return Run(
    plan.out / name,
    (
      *(sys.executable, '-m', 'jaxreid.main'),
      f'--config={plan.configs / config}',
      f'--workdir={plan.out / name}',
      *row.flags,
      *ours,
      *plan.flags,  # the last one counts: what the user says
      *more,
      f'--config.seed={seed}',
    ),
  )


def _name(config: str, flags: Sequence[str], seed: int) -> str:
  """Readable, and another one for every other config."""
  readable = re.sub(r'[^\w.]+', '_', config.replace('.py', ''))
  mark = hashlib.sha256(json.dumps([config, *flags]).encode()).hexdigest()[:6]
  return f'{readable.strip("_")}_{mark}_seed{seed}'


def short_schedule(epochs: float) -> list[str]:
  """Warm-up in the first tenth, decays at 60 % and 85 %; nothing for 0."""
  if not epochs:
    return []
  return [
    f'--config.schedule.epochs={epochs}',
    f'--config.schedule.warmup_epochs={round(0.1 * epochs, 6)}',
    '--config.schedule.decay_epochs='
    f'({round(0.6 * epochs, 6)},{round(0.85 * epochs, 6)})',
  ]


def is_finished(run: Run) -> bool:
  """Whether the run has its results."""
  return (run.folder / RESULTS).exists()


def read(run: Run) -> dict[str, Any] | None:
  """What results.json of a finished run holds; None if there is none."""
  try:
    return json.loads((run.folder / RESULTS).read_text())
  except (OSError, ValueError):
    return None


def run_all(runs: Sequence[Run], parallel: int = 1) -> dict[pathlib.Path, str]:
  """Runs what is missing, with a progress bar over runs.

  On SIGTERM, SIGHUP and SIGINT the running ones save and end, and so does
  this.

  Args:
    runs: in the order in which they start; those that others come after
      first.
    parallel: runs at a time, one core each; 1 leaves a run all cores.

  Returns:
    folder -> why, of the runs that failed.
  """
  with (
    _Children(parallel) as children,
    tqdm.tqdm(total=len(runs), unit='run', desc='runs') as bar,
  ):
    failed: dict[pathlib.Path, str] = {}
    bar.update(sum(map(is_finished, runs)))
    missing = [run for run in runs if not is_finished(run)]
    first = [run for run in missing if run.after is None]
    rest = [run for run in missing if run.after is not None]
    for batch in (first, rest):
      ready = [run for run in batch if run.after not in failed]
      failed |= {
        run.folder: f'its teacher {run.after} failed'
        for run in batch
        if run not in ready
      }
      for run, why in children.run(ready):
        bar.set_postfix_str(run.folder.name)
        bar.update()
        if why:
          failed[run.folder] = why
          bar.write(f'failed: {run.folder.name}: {why}', file=sys.stderr)
  return failed


class _Children:
  """Processes of runs, which end when this one is told to."""

  def __init__(self, parallel: int):
    self._cores: queue.Queue[int] = queue.Queue()
    self._alone = parallel > 1
    for core in sorted(_cores())[:parallel]:
      self._cores.put(core)
    self._pool = concurrent.futures.ThreadPoolExecutor(self._cores.qsize())
    self._alive: set[subprocess.Popen] = set()
    self._stopped = False
    self._before: dict[int, Any] = {}

  def __enter__(self) -> '_Children':
    for number in (signal.SIGTERM, signal.SIGHUP):
      if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
        self._before[number] = signal.signal(number, self._stop)
    return self

  def __exit__(self, *error: object):
    self._stopped = True
    for process in list(self._alive):
      process.terminate()
    self._pool.shutdown(cancel_futures=True)
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def run(self, runs: Sequence[Run]):
    """Yields (run, why it failed or '') as they end."""
    waiting = {self._pool.submit(self._start, run): run for run in runs}
    for done in concurrent.futures.as_completed(waiting):
      yield waiting[done], done.result()

  def _stop(self, signum: int, frame: object):
    del frame
    raise SystemExit(128 + signum)

  def _start(self, run: Run) -> str:
    if self._stopped:
      return 'stopped'
    core = self._cores.get()
    try:
      run.folder.mkdir(parents=True, exist_ok=True)
      with (run.folder / LOG).open('a') as log:
        if not _take(log):
          return 'another command is at it; repeat this one when it has ended'
        process = subprocess.Popen(
          _pinned(run.command, core if self._alone else None),
          stdout=log,
          stderr=log,
          process_group=0,  # Ctrl-C is for this process, which asks to save
        )
        self._alive.add(process)
        status = process.wait()
        self._alive.discard(process)
    finally:
      self._cores.put(core)
    if status == 0 and is_finished(run):
      return ''
    return _last_words(run.folder / LOG, status)


def _take(log: IO[str]) -> bool:
  """Whether nobody else has the run.

  The process inherits the lock with the file that it writes to: it lasts as
  long as the run does, even if this command is killed before.
  """
  try:
    fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError:
    pass  # a file system without locks
  return True


def _cores() -> set[int]:
  if hasattr(os, 'sched_getaffinity'):
    return os.sched_getaffinity(0)
  return set(range(os.cpu_count() or 1))


def _pinned(command: Sequence[str], core: int | None) -> list[str]:
  if core is None or not hasattr(os, 'sched_setaffinity'):
    return list(command)
  return ['taskset', '-c', str(core), *command]


def _last_words(log: pathlib.Path, status: int) -> str:
  lines = log.read_text(errors='replace').split('\n')
  said = [line for line in lines if line.strip()]
  words = said[-1].split('\r')[-1] if said else 'it said nothing'
  return f'status {status}: {words}'
