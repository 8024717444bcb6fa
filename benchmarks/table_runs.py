"""The rows of a table: a run for each, and what they gave.

Synopsis:

  rows = [Row('agw_0', 'configs/lupi.py:ablation=agw', short_schedule(3.6))]
  run_all(rows, out, parallel=1)
  print(mean([r['results'][search]['rank1'] for r in read(out, ['agw_0'])]))

Rows that have their results are not run again, a killed one goes on.
"""

import concurrent.futures
import json
import pathlib
import queue
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parent.parent


class Row(NamedTuple):
  """A run.

  Attributes:
    name: of its folder.
    config: the config file with its argument.
    flags: overrides.
  """

  name: str
  config: str
  flags: Sequence[str]


def short_schedule(epochs: float) -> list[str]:
  """Warm-up in the first tenth, x0.1 at 60 % and 85 %."""
  return [
    f'--config.schedule.epochs={epochs}',
    f'--config.schedule.warmup_epochs={0.1 * epochs}',
    f'--config.schedule.decay_epochs=({0.6 * epochs},{0.85 * epochs})',
  ]


def run_all(rows: Sequence[Row], out: pathlib.Path, parallel: int = 1):
  """Runs what is missing.

  Args:
    rows: in the order in which they start.
    out: the folder of their folders.
    parallel: runs at a time, one core each; 1 leaves a run all cores.
  """
  cores: queue.Queue = queue.Queue()
  for core in range(parallel):
    cores.put(core)

  def run(row: Row):
    core = cores.get()
    try:
      _run(row, out / row.name, core if parallel > 1 else None)
    finally:
      cores.put(core)

  with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
    list(pool.map(run, rows))


def _run(row: Row, folder: pathlib.Path, core: int | None):
  if (folder / 'results.json').exists():
    return
  folder.mkdir(parents=True, exist_ok=True)
  alone = [] if core is None else ['taskset', '-c', str(core)]
  command = [
    *alone,
    *(sys.executable, '-m', 'jaxreid.main', f'--workdir={folder}'),
    f'--config={row.config}',
    *row.flags,
  ]
  print(' '.join(command), flush=True)
  with (folder / 'log.txt').open('a') as log:
    subprocess.run(command, cwd=ROOT, check=True, stdout=log, stderr=log)


def read(out: pathlib.Path, names: Sequence[str]) -> list[dict[str, Any]]:
  """What results.json holds, of the named rows that are finished."""
  files = [out / name / 'results.json' for name in names]
  return [json.loads(file.read_text()) for file in files if file.exists()]


def mean(values: Sequence[float], spread: bool = True) -> str:
  """'24.1 ± 3.5'; the deviation only of several; '-' of none."""
  if not values:
    return '-'
  text = f'{statistics.mean(values):.1f}'
  if len(values) == 1 or not spread:
    return text
  return f'{text} ± {statistics.stdev(values):.1f}'
