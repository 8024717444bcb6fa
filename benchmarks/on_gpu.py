"""Everything that a GPU owes to docs/benchmarks.md, in one command.

  python -m benchmarks.on_gpu                 # the paper's size, on a GPU
  python -m benchmarks.on_gpu --size=small    # the same on 2 cores, to try it

runs one after the other, each in a process of its own and none longer than its
share of the time, so that the whole ends within eight minutes:

  train_step         LUPI's step and its parts in bfloat16, 8 identities
  against_pytorch    the same step beside both of PyTorch
  train_step         larger batches, without parts

Rows are printed as they are measured; what runs out of time says so, and what
it has printed until then counts. Needs PyTorch with CUDA beside
`pip install -e '.[cuda]'`.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
MINUTES = 8.0
# Arguments and share of the time; what one leaves goes to those after it.
PARTS = {
  'paper': (
    ('train_step --size=paper --dtype=bfloat16 --batch=8 --repeats=20', 0.3),
    ('against_pytorch --size=paper --batch=32 --steps=10 --workers=8', 0.45),
    (
      'train_step --size=paper --dtype=bfloat16 --batch=32,64 --repeats=20 '
      '--no-parts',
      0.25,
    ),
  ),
  'small': (
    ('train_step --batch=8 --repeats=2', 0.4),
    ('against_pytorch --batch=8 --steps=1 --turns=2', 0.35),
    ('train_step --batch=16 --repeats=2 --no-parts', 0.25),
  ),
}


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--size', choices=list(PARTS), default='paper')
  parser.add_argument('--minutes', type=float, default=MINUTES)
  parser.add_argument('--cpu_time', action='store_true')
  options = parser.parse_args()
  more = ['--cpu_time'] if options.cpu_time else []
  begin, share = time.monotonic(), 0.0
  for arguments, part in PARTS[options.size]:
    share += part
    end = begin + 60 * options.minutes * share
    run([*arguments.split(), *more], end - time.monotonic())
  print(f'all within {time.monotonic() - begin:.0f} s')


def run(arguments: list[str], seconds: float):
  """Runs a benchmark for at most so many seconds."""
  name, *flags = arguments
  print(f'\n== python -m benchmarks.{" ".join(arguments)}', flush=True)
  start = time.monotonic()
  command = [sys.executable, '-m', f'benchmarks.{name}', *flags]
  environment = {**os.environ, 'PYTHONUNBUFFERED': '1'}
  try:
    done = subprocess.run(command, cwd=ROOT, env=environment, timeout=seconds)
    ended = 'done' if not done.returncode else f'status {done.returncode}'
  except subprocess.TimeoutExpired:
    ended = 'out of time'
  print(f'== {ended} after {time.monotonic() - start:.0f} s', flush=True)


if __name__ == '__main__':
  main()
