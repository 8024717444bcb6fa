"""Renders many images on all cores, in order.

    for task, jpeg in render_all([Task(0, 7, 3, 4), ...], workers=2): ...

The processes are plain children that read tasks from their input and write
JPEGs to their output. They import NumPy and Pillow only, never the caller's
main module, so this is safe below a script without a main guard and beside
JAX's threads. A child whose parent dies, ends at its next image.
"""

import os
import pathlib
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from tfds_builders.synthetic_reid.render import render

_SIZE = struct.Struct('<I')
_ROOT = pathlib.Path(__file__).resolve().parents[2]


class Task(NamedTuple):
  """The numbers that name one image; see `render.render`."""

  seed: int
  number: int
  camera: int
  frame: int


def cores() -> int:
  """Returns the number of cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def render_all(
  tasks: Sequence[Task], workers: int | None = None
) -> Iterator[tuple[Task, bytes]]:
  """Yields (task, JPEG) in the order of `tasks`.

  Args:
    tasks: what to render; neighbours of one identity are cheapest.
    workers: number of processes; None for one per core, 0 for none but this.

  Raises:
    ChildProcessError: if a process ends early.
  """
  if workers is None:
    workers = cores()
  if workers == 0:
    for task in tasks:
      yield task, render(*task)
    return
  children = [_start() for _ in range(min(workers, max(len(tasks), 1)))]
  try:
    for k, child in enumerate(children):
      _send(child, tasks[k :: len(children)])
    for k, task in enumerate(tasks):
      yield task, _receive(children[k % len(children)])
  finally:
    for child in children:
      child.kill()
      child.wait()
      for pipe in (child.stdin, child.stdout):
        if pipe is not None:
          pipe.close()


def _start() -> subprocess.Popen:
  paths = [str(_ROOT), os.environ.get('PYTHONPATH', '')]
  environment = dict(
    os.environ, PYTHONPATH=os.pathsep.join(filter(None, paths))
  )
  return subprocess.Popen(
    [sys.executable, '-m', __name__],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    env=environment,
    bufsize=1 << 20,
  )


def _send(child: subprocess.Popen, tasks: Sequence[Task]):
  lines = ''.join(f'{" ".join(map(str, task))}\n' for task in tasks)
  assert child.stdin is not None
  child.stdin.write(lines.encode())
  child.stdin.close()


def _receive(child: subprocess.Popen) -> bytes:
  assert child.stdout is not None
  head = child.stdout.read(_SIZE.size)
  if len(head) == _SIZE.size:
    (size,) = _SIZE.unpack(head)
    jpeg = child.stdout.read(size)
    if len(jpeg) == size:
      return jpeg
  raise ChildProcessError(
    f'A rendering process ended early with status {child.wait()}; its own '
    'message stands above. Start again: nothing half-made is kept.'
  )


def serve(source: BinaryIO, sink: BinaryIO):
  """Renders the tasks of `source`, one a line, into `sink`."""
  # All tasks are read first: a parent that is still sending never waits.
  for line in source.read().decode().splitlines():
    jpeg = render(*map(int, line.split()))
    sink.write(_SIZE.pack(len(jpeg)))
    sink.write(jpeg)
    sink.flush()


if __name__ == '__main__':
  try:
    serve(sys.stdin.buffer, sys.stdout.buffer)
  except (BrokenPipeError, KeyboardInterrupt):
    # The parent has gone; skip the flush of an output that nobody reads.
    os._exit(1)
