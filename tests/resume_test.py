"""Killed at any moment and started again, a run ends with the same bits.

Real child processes: SIGKILL between and during saves, SIGTERM, and the same
command again each time.
"""

import json
import pathlib
import re
import signal
import struct
import time

import jax
import numpy as np
import pytest
from tensorboardX.proto import event_pb2


def wait_until(child, condition):
  """Polls; fails if the child ends before."""
  while not condition():
    if child.poll() is not None:
      pytest.fail(f'the run ended too early: {child.communicate()}')
    time.sleep(0.002)


def logged_step(workdir: pathlib.Path) -> int:
  path = workdir / 'metrics.jsonl'
  lines = path.read_text().split('\n')[:-1] if path.exists() else []
  return json.loads(lines[-1])['step'] if lines else 0


def checkpoint_steps(workdir: pathlib.Path) -> list[int]:
  folder = workdir / 'checkpoints'
  return sorted(int(p.name) for p in folder.glob('*') if p.name.isdigit())


def unfinished_saves(workdir: pathlib.Path) -> list[pathlib.Path]:
  return list((workdir / 'checkpoints').glob('*.orbax-checkpoint-tmp*'))


def scalars(workdir: pathlib.Path) -> list[tuple[int, str, float]]:
  """(step, tag, value) of all event files, in the order of writing."""
  found = []
  for path in sorted((workdir / 'tensorboard').glob('*tfevents*')):
    content, start = path.read_bytes(), 0
    while start < len(content):
      (length,) = struct.unpack_from('<Q', content, start)
      data = content[start + 12 : start + 12 + length]
      event = event_pb2.Event.FromString(data)
      found += [
        (event.step, v.tag, v.simple_value) for v in event.summary.value
      ]
      start += 12 + length + 4
  return found


def assert_equal_runs(one: pathlib.Path, other: pathlib.Path, restored):
  metrics = [(w / 'metrics.jsonl').read_bytes() for w in (one, other)]
  assert metrics[0] == metrics[1]
  assert scalars(one) == scalars(other)
  # The best checkpoint, if it is not the last, is kept through all kills.
  assert checkpoint_steps(one) == checkpoint_steps(other)
  assert not unfinished_saves(other)
  for step in checkpoint_steps(one):
    mine, theirs = restored(one, step), restored(other, step)
    assert jax.tree.structure(mine) == jax.tree.structure(theirs)
    for a, b in zip(
      jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True
    ):
      np.testing.assert_array_equal(np.asarray(a), np.asarray(b), strict=True)
  reports = [json.loads((w / 'results.json').read_text()) for w in (one, other)]
  for name in ('results', 'checkpoint', 'domain_shift'):
    assert reports[0][name] == reports[1][name]


def test_uninterrupted_run_is_complete(uninterrupted):
  lines = (uninterrupted.workdir / 'metrics.jsonl').read_text().splitlines()
  steps = [json.loads(line)['step'] for line in lines]
  trained = [1, *range(2, 25, 2)]
  assert steps == sorted([*trained, 6, 12, 18, 24])
  tags = [(step, tag) for step, tag, _ in scalars(uninterrupted.workdir)]
  assert len(tags) == len(set(tags))
  assert {step for step, _ in tags} == set(trained)
  assert 24 in checkpoint_steps(uninterrupted.workdir)


def test_sigkill(
  start, finish, resumable_flags, uninterrupted, tmp_path, restored
):
  flags = [*resumable_flags, f'--workdir={tmp_path}']
  child = start(*flags)
  # Metrics after the checkpoint are to be cut back.
  wait_until(child, lambda: checkpoint_steps(tmp_path))
  first = checkpoint_steps(tmp_path)[-1]
  wait_until(child, lambda: logged_step(tmp_path) > first)
  child.kill()
  assert finish(child).returncode == -signal.SIGKILL

  child = start(*flags)
  wait_until(child, lambda: checkpoint_steps(tmp_path)[-1] > first)
  wait_until(child, lambda: unfinished_saves(tmp_path))
  child.kill()
  killed = finish(child)
  assert killed.returncode == -signal.SIGKILL
  assert 'going on from the checkpoint of step' in killed.stdout

  finished = finish(start(*flags))
  assert finished.returncode == 0, finished.stderr
  assert 'going on from the checkpoint of step' in finished.stdout
  assert_equal_runs(uninterrupted.workdir, tmp_path, restored)


def test_sigterm(
  start, finish, resumable_flags, uninterrupted, tmp_path, restored
):
  flags = [*resumable_flags, f'--workdir={tmp_path}']
  child = start(*flags)
  wait_until(child, lambda: logged_step(tmp_path) >= 8)
  child.send_signal(signal.SIGTERM)
  stopped = finish(child)
  assert stopped.returncode == 0, stopped.stderr
  said = re.search(r'saved step (\d+) on SIGTERM; the same', stopped.stdout)
  assert said, stopped.stdout
  assert int(said[1]) == checkpoint_steps(tmp_path)[-1] < 24
  assert not unfinished_saves(tmp_path)
  assert not (tmp_path / 'results.json').exists()

  finished = finish(start(*flags))
  assert finished.returncode == 0, finished.stderr
  assert f'the checkpoint of step {said[1]}\n' in finished.stdout
  assert_equal_runs(uninterrupted.workdir, tmp_path, restored)
