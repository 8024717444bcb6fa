"""Metrics to a JSON-lines file, to TensorBoard and to the terminal.

Synopsis:

  with MetricWriter(workdir, restored_step=200) as writer:
    progress = ProgressLine(total=1000, images_per_step=96, start=200)
    for step in range(201, 1001):
      ...
      writer.write(step, {'loss': 0.25, 'accuracy': 0.5})
      progress(step, {'loss': 0.25, 'accuracy': 0.5})
    progress.close()

Both files hold what an uninterrupted run would have written: on a restart all
that came after the restored step is cut away.
"""

import datetime
import io
import json
import os
import pathlib
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, SupportsFloat, TextIO

import numpy as np
import tensorboardX
from PIL import Image
from tensorboardX.proto import event_pb2, summary_pb2

# How the event files of pictures end.
_PICTURES = '.pictures'


class MetricWriter:
  """Writes scalars to WORKDIR/metrics.jsonl and WORKDIR/tensorboard.

  Each call of `write` adds one line, `{"step": 20, "loss": 0.25}`, with the
  numbers in full precision and nothing that depends on the clock, so runs
  with the same bits leave the same file. A line survives a kill once `write`
  has returned; one torn by a crash is dropped at the next start. A number
  that is not finite is written as `NaN` or `Infinity`, as Python's json reads
  it.
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    restored_step: int = 0,
    process_index: int = 0,
  ):
    """Opens both files and cuts away what came after `restored_step`.

    Args:
      workdir: the run's folder; made if absent.
      restored_step: the step of the checkpoint that the run goes on from, 0
        for a run from the start.
      process_index: `jax.process_index()`. Only process 0 writes.
    """
    self._lines: TextIO | None = None
    if process_index != 0:
      return
    lines = pathlib.Path(workdir) / 'metrics.jsonl'
    events = pathlib.Path(workdir) / 'tensorboard'
    events.mkdir(parents=True, exist_ok=True)
    _cut_lines(lines, restored_step)
    for path in events.glob('*tfevents*'):
      _cut_events(path, restored_step)
    self._lines = lines.open('a', encoding='utf-8')
    name = f'events.out.tfevents.{time.time_ns()}.{socket.gethostname()}'
    self._events = tensorboardX.RecordWriter(str(events / name))
    self._add_event(file_version='brain.Event:2')
    # A TensorBoard that runs meanwhile has read the cut events: take them back.
    restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._add_event(step=restored_step + 1, session_log=restart)
    self._events.flush()

  def write(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
    """Writes the metrics of one step; JAX and NumPy scalars are welcome.

    Args:
      step: the number of steps done, 1 after the first.
      metrics: scalars by name, all of this step (no running means).
    """
    if self._lines is None:
      return
    values = {name: float(value) for name, value in metrics.items()}
    self._lines.write(json.dumps({'step': int(step), **values}) + '\n')
    self._lines.flush()
    scalars = [
      summary_pb2.Summary.Value(tag=name, simple_value=value)
      for name, value in values.items()
    ]
    self._add_event(step=step, summary=summary_pb2.Summary(value=scalars))
    self._events.flush()

  def close(self) -> None:
    """Closes both files; `write` does nothing afterwards."""
    if self._lines is not None:
      self._lines.close()
      self._events.close()
      self._lines = None

  def __enter__(self) -> 'MetricWriter':
    """Returns the writer itself."""
    return self

  def __exit__(self, *error: object) -> None:
    """Closes the writer, error or not."""
    self.close()

  def _add_event(self, **fields: Any) -> None:
    event = event_pb2.Event(wall_time=time.time(), **fields)
    self._events.write(event.SerializeToString())


def write_pictures(
  workdir: str | os.PathLike[str], step: int, pictures: Mapping[str, np.ndarray]
) -> None:
  """Writes pictures to WORKDIR/tensorboard, in a file of their own.

  Those of an earlier evaluation give way.

  Args:
    workdir: the run's folder.
    step: of the state that they show.
    pictures: name -> uint8 [H, W, 3].
  """
  events = pathlib.Path(workdir) / 'tensorboard'
  events.mkdir(parents=True, exist_ok=True)
  for path in events.glob(f'*tfevents*{_PICTURES}'):
    path.unlink()
  host = socket.gethostname()
  name = f'events.out.tfevents.{time.time_ns()}.{host}{_PICTURES}'
  values = [
    summary_pb2.Summary.Value(tag=tag, image=_encode(pixels))
    for tag, pixels in pictures.items()
  ]
  writer = tensorboardX.RecordWriter(str(events / name))
  for fields in (
    {'file_version': 'brain.Event:2'},
    {'step': step, 'summary': summary_pb2.Summary(value=values)},
  ):
    event = event_pb2.Event(wall_time=time.time(), **fields)
    writer.write(event.SerializeToString())
  writer.close()


def _encode(pixels: np.ndarray) -> summary_pb2.Summary.Image:
  stream = io.BytesIO()
  Image.fromarray(pixels).save(stream, 'PNG')
  height, width, channels = pixels.shape
  return summary_pb2.Summary.Image(
    height=height,
    width=width,
    colorspace=channels,
    encoded_image_string=stream.getvalue(),
  )


class ProgressLine:
  """Step, loss, images per second and time left, on one line.

  A terminal has the line rewritten in place, anything else gets one line per
  call. The speed is that since the call before; the first call, which has the
  compilation behind it, shows none. A stream that cannot be written to is
  left alone: progress is never a reason to stop a run.
  """

  def __init__(
    self,
    total: int,
    images_per_step: int,
    start: int = 0,
    stream: io.TextIOBase | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Starts before the first step.

    Args:
      total: the last step of the schedule.
      images_per_step: images of one step, over all modalities and devices.
      start: the step that the run goes on from.
      stream: where to write; standard error by default.
      clock: seconds, from any origin.
    """
    self._total = total
    self._images_per_step = images_per_step
    self._stream: Any = sys.stderr if stream is None else stream
    self._clock = clock
    self._first: tuple[int, float] | None = None
    self._previous = (start, clock())

  def __call__(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
    """Shows `step` with the loss (or each player's) among `metrics`."""
    now = self._clock()
    parts = [f'step {step}/{self._total}', *_losses(metrics)]
    if self._first is None:
      self._first = (step, now)
    else:
      before, then = self._previous
      speed = (step - before) * self._images_per_step / max(now - then, 1e-9)
      first, started = self._first
      mean = (now - started) / max(step - first, 1)
      left = datetime.timedelta(seconds=round((self._total - step) * mean))
      parts += [f'{speed:.0f} images/s', f'{left} left']
    self._previous = (step, now)
    self._show('  '.join(parts))

  def say(self, sentence: str) -> None:
    """Shows a sentence on a line of its own, that stays."""
    self._show(sentence)
    if self._is_terminal():
      self._print('\n')

  def close(self) -> None:
    """Ends the line on a terminal."""
    if self._first is not None and self._is_terminal():
      self._print('\n')

  def _show(self, text: str) -> None:
    # \x1b[K clears what a longer line left behind.
    self._print(f'\r{text}\x1b[K' if self._is_terminal() else f'{text}\n')

  def _is_terminal(self) -> bool:
    try:
      return self._stream.isatty()
    except (AttributeError, OSError, ValueError):
      return False

  def _print(self, text: str) -> None:
    try:
      self._stream.write(text)
      self._stream.flush()
    except (AttributeError, OSError, ValueError):
      pass  # closed, or a pipe that nobody reads


def _losses(metrics: Mapping[str, SupportsFloat]) -> list[str]:
  names = ['loss'] if 'loss' in metrics else list(metrics)
  return [
    f'{name.replace("_", " ")} {float(metrics[name]):.4f}'
    for name in names
    if name.endswith('loss')
  ]


def _cut_lines(path: pathlib.Path, last_step: int) -> None:
  """Drops the lines after `last_step`, and lines that are not whole."""
  if not path.exists():
    return
  content = path.read_bytes()
  kept = b''.join(
    line
    for line in content.splitlines(keepends=True)
    if line.endswith(b'\n') and _step_of(line) <= last_step
  )
  _replace(path, content, kept)


def _step_of(line: bytes) -> float:
  try:
    return float(json.loads(line)['step'])
  except (ValueError, KeyError, TypeError):
    return float('inf')  # not one of ours, or torn: to be dropped


def _cut_events(path: pathlib.Path, last_step: int) -> None:
  """Drops the events after `last_step`, and one torn at the end."""
  content = path.read_bytes()
  kept = b''.join(
    record for record, event in _records(content) if event.step <= last_step
  )
  _replace(path, content, kept)


def _records(content: bytes) -> Iterator[tuple[bytes, event_pb2.Event]]:
  """The whole records of an event file, raw and parsed.

  A record is the data's length (8 bytes), its checksum (4), the data and its
  checksum (4).
  """
  start = 0
  while start + 12 <= len(content):
    (length,) = struct.unpack_from('<Q', content, start)
    end = start + 12 + length + 4
    if end > len(content):
      return
    data = content[start + 12 : end - 4]
    yield content[start:end], event_pb2.Event.FromString(data)
    start = end


def _replace(path: pathlib.Path, content: bytes, kept: bytes) -> None:
  """Writes `kept` over `content` in one move, if they differ."""
  if kept != content:
    # Not named like an event file, lest TensorBoard reads one left behind.
    new = path.with_name('.cut')
    new.write_bytes(kept)
    new.replace(path)
