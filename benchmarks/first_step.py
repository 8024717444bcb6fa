"""How long a newcomer waits: from the default command to its first step.

  python -m benchmarks.first_step

prepares the rendered set where that was not done, then starts

  python -m jaxreid.main --config=configs/lupi.py --workdir=...

with an empty compilation cache and with a filled one in turn, ends it at the
first step that it reports, and prints seconds and seconds of CPU (user and
system, all threads), median and least. `--phases` prints where they go,
measured inside of one process: `--cold` says with which cache.
"""

import argparse
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[1]


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--starts', type=int, default=3, help='of either kind')
  parser.add_argument('--phases', action='store_true')
  parser.add_argument('--cold', action='store_true')
  options = parser.parse_args()
  if options.phases:
    print_phases(options.cold)
    return
  table: dict[str, list[tuple[float, float]]] = {'cold': [], 'warm': []}
  with tempfile.TemporaryDirectory() as folder:
    start(folder, 'prepare')
    for i in range(options.starts):
      table['cold'].append(start(folder, f'cache{i}'))
      table['warm'].append(start(folder, f'cache{i}'))
  print('| compilation cache | seconds | least | CPU seconds | least |')
  print('| --- | ---: | ---: | ---: | ---: |')
  for name, starts in table.items():
    cells = [
      f'{choose(values):.1f}'
      for values in zip(*starts, strict=True)
      for choose in (statistics.median, min)
    ]
    print(f'| {name} | ' + ' | '.join(cells) + ' |', flush=True)


def start(folder: str, cache: str) -> tuple[float, float]:
  """Seconds and CPU seconds to the first step that the command reports."""
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
  environment['JAX_COMPILATION_CACHE_DIR'] = f'{folder}/{cache}'
  workdir = tempfile.mkdtemp(dir=folder)
  begin = time.perf_counter()
  child = subprocess.Popen(
    [
      *(sys.executable, '-m', 'jaxreid.main'),
      *('--config=configs/lupi.py', f'--workdir={workdir}'),
    ],
    cwd=ROOT,
    env=environment,
    stderr=subprocess.PIPE,
    stdout=subprocess.DEVNULL,
    text=True,
  )
  said = []
  for line in child.stderr or ():
    said.append(line)
    if line.startswith('step '):
      break
  else:
    raise RuntimeError('the run ended before its first step:\n' + ''.join(said))
  seconds = time.perf_counter() - begin
  stat = pathlib.Path(f'/proc/{child.pid}/stat').read_text()
  ticks = sum(map(int, stat.rpartition(')')[2].split()[11:13]))
  child.send_signal(signal.SIGKILL)
  child.communicate()
  return seconds, ticks / os.sysconf('SC_CLK_TCK')


def print_phases(cold: bool):
  """Seconds and CPU seconds of the parts of a start, in this process."""
  print('| phase | seconds | CPU seconds |')
  print('| --- | ---: | ---: |')
  before = time.perf_counter(), time.process_time()
  for name in phases(cold):
    now = time.perf_counter(), time.process_time()
    print(f'| {name} | {now[0] - before[0]:.2f} | {now[1] - before[1]:.2f} |')
    before = time.perf_counter(), time.process_time()


def phases(cold: bool) -> Iterator[str]:
  """Does what a start does; yields the name of each part after it."""
  import jax

  from jaxreid import main as command

  yield 'import jax'
  from configs import lupi
  from jaxreid import teacher, train  # noqa: F401

  yield 'import the rest'
  with tempfile.TemporaryDirectory() as folder:
    if cold:
      os.environ['JAX_COMPILATION_CACHE_DIR'] = f'{folder}/cache'
      jax.config.update('jax_compilation_cache_dir', f'{folder}/cache')
    command._prepare_jax(False)
    run = train.open_run(lupi.get_config(), f'{folder}/run')
    yield 'open the tables, assemble the run'
    setup = run.setup
    state = jax.block_until_ready(setup.init())
    yield 'first state'
    inputs = next(setup.feed.inputs(0))
    yield 'first batch'
    given = state, setup.feed.pixels, inputs, setup.key
    lowered = setup.step.lower(*given)
    yield 'trace the step'
    program = lowered.compile()
    yield 'compile the step, or load it'
    state, metrics = program(*given)
    jax.device_get(metrics)
    yield 'first step'


if __name__ == '__main__':
  main()
