"""Metric files through crashes and restarts, and the progress line."""

import io
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import textwrap

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from tensorboardX.proto import event_pb2

from jaxreid.metric_writer import MetricWriter, ProgressLine, write_pictures


def read_lines(workdir):
  return (workdir / 'metrics.jsonl').read_text()


def read_events(workdir):
  """(step, tag, value) of all event files, by a reader of our own."""
  return [
    (event.step, value.tag, value.simple_value)
    for path in sorted((workdir / 'tensorboard').glob('*tfevents*'))
    for event in events(path)
    for value in event.summary.value
  ]


def events(path):
  found, stream = [], io.BytesIO(path.read_bytes())
  while header := stream.read(12):
    data = stream.read(struct.unpack('<Q', header[:8])[0])
    assert len(stream.read(4)) == 4
    found.append(event_pb2.Event.FromString(data))
  return found


def run(workdir, steps, restored_step=0):
  with MetricWriter(workdir, restored_step=restored_step) as writer:
    for step in steps:
      writer.write(step, {'loss': 1 / step, 'accuracy': step / 7})


def test_lines_hold_full_precision_and_no_clock(tmp_path):
  values = {'loss': 0.1 + 0.2, 'norm': np.float32(1e-7), 'rank': jnp.int32(3)}
  with MetricWriter(tmp_path) as writer:
    writer.write(5, values)
  (line,) = read_lines(tmp_path).splitlines()
  assert json.loads(line) == {
    'step': 5,
    'loss': 0.30000000000000004,
    'norm': float(np.float32(1e-7)),
    'rank': 3.0,
  }
  assert list(json.loads(line)) == ['step', 'loss', 'norm', 'rank']


def test_tensorboard_holds_the_same_numbers(tmp_path):
  run(tmp_path, [2, 4])
  assert read_events(tmp_path) == [
    (2, 'loss', 0.5),
    (2, 'accuracy', pytest.approx(2 / 7)),
    (4, 'loss', 0.25),
    (4, 'accuracy', pytest.approx(4 / 7)),
  ]


def test_a_restart_leaves_what_one_run_would_have_written(tmp_path):
  whole, halves = tmp_path / 'whole', tmp_path / 'halves'
  run(whole, range(1, 10))
  run(halves, range(1, 8))
  run(halves, range(5, 9), restored_step=4)
  run(halves, range(7, 10), restored_step=6)
  assert read_lines(halves) == read_lines(whole)
  assert read_events(halves) == read_events(whole)
  assert len(read_events(whole)) == 18


def test_a_run_from_the_start_drops_all_that_was_there(tmp_path):
  run(tmp_path, range(1, 6))
  run(tmp_path, [1])
  assert read_lines(tmp_path).count('\n') == 1
  assert [step for step, *_ in read_events(tmp_path)] == [1, 1]


def test_torn_ends_are_dropped(tmp_path):
  run(tmp_path, range(1, 4))
  with (tmp_path / 'metrics.jsonl').open('a') as stream:
    stream.write('{"step": 3, "lo')
  (events,) = (tmp_path / 'tensorboard').iterdir()
  events.write_bytes(events.read_bytes()[:-3])
  run(tmp_path, [4], restored_step=3)
  lines = read_lines(tmp_path).splitlines()
  steps = [json.loads(line)['step'] for line in lines]
  assert steps == [1, 2, 3, 4]
  assert [step for step, *_ in read_events(tmp_path)] == [1, 1, 2, 2, 4, 4]


def test_a_killed_process_loses_nothing_that_was_written(tmp_path):
  code = f"""
    import os, signal
    from jaxreid.metric_writer import MetricWriter
    writer = MetricWriter({str(tmp_path)!r})
    writer.write(1, {{'loss': 0.5}})
    writer.write(2, {{'loss': 0.25}})
    os.kill(os.getpid(), signal.SIGKILL)
  """
  child = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(code)],
    cwd=pathlib.Path(__file__).parents[1],
    check=False,
  )
  assert child.returncode == -signal.SIGKILL
  assert read_lines(tmp_path).count('\n') == 2
  assert read_events(tmp_path) == [(1, 'loss', 0.5), (2, 'loss', 0.25)]


def test_other_processes_write_nothing(tmp_path):
  with MetricWriter(tmp_path, process_index=1) as writer:
    writer.write(1, {'loss': 1.0})
  assert not list(tmp_path.iterdir())


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_pictures_are_an_event_of_their_own(tmp_path):
  run(tmp_path, [1, 2])
  scalars = read_events(tmp_path)
  drawn = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  write_pictures(tmp_path, 2, {'old': drawn})
  write_pictures(tmp_path, 2, {'channels': drawn})
  (path,) = (tmp_path / 'tensorboard').glob('*.pictures')
  head, event = events(path)
  assert head.file_version == 'brain.Event:2'
  (value,) = event.summary.value
  assert (event.step, value.tag) == (2, 'channels')
  assert (value.image.height, value.image.width) == (5, 7)
  shown = Image.open(io.BytesIO(value.image.encoded_image_string))
  assert_array_equal(np.asarray(shown), drawn)
  path.unlink()
  assert read_events(tmp_path) == scalars


def show(stream):
  times = iter([0.0, 30.0, 32.0, 40.0])
  progress = ProgressLine(100, 96, 10, stream, lambda: next(times))
  progress(11, {'loss': 2.5, 'id_loss': 2.0})
  progress(20, {'loss': 1.25})
  progress(60, {'generator_loss': 0.5, 'accuracy': 1.0})
  progress.close()


def test_progress_on_a_pipe_is_plain_lines():
  stream = io.StringIO()
  show(stream)
  # 9 steps in 2 s; then 40 in 8 s, and 49 steps in 10 s since the first.
  assert stream.getvalue().splitlines() == [
    'step 11/100  loss 2.5000',
    'step 20/100  loss 1.2500  432 images/s  0:00:18 left',
    'step 60/100  generator loss 0.5000  480 images/s  0:00:08 left',
  ]


def test_progress_on_a_terminal_is_one_line():
  stream = Terminal()
  show(stream)
  text = stream.getvalue()
  assert text.count('\n') == 1 and text.endswith('\n')
  assert text.count('\r') == text.count('\x1b[K') == 3


@pytest.mark.parametrize('terminal', [True, False])
def test_progress_survives_a_closed_stream(terminal):
  stream = Terminal() if terminal else io.StringIO()
  stream.close()
  show(stream)


def test_progress_survives_a_broken_pipe():
  reader, writer = os.pipe()
  os.close(reader)
  show(
    io.TextIOWrapper(io.FileIO(writer, 'w', closefd=False), write_through=True)
  )
  os.close(writer)


def test_progress_survives_no_standard_error(monkeypatch):
  monkeypatch.setattr(sys, 'stderr', None)
  progress = ProgressLine(3, 2)
  progress(1, {'loss': 1.0})
  progress.close()
