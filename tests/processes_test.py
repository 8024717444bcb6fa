"""Several real processes compute what one does, and notice when one dies."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jaxreid import processes, sharding

ROOT = pathlib.Path(__file__).parents[1]

CHILD = ROOT / 'tests' / 'process_child.py'


def free_port() -> int:
  with socket.socket() as server:
    server.bind(('127.0.0.1', 0))
    return server.getsockname()[1]


def compute(folder, environment, count, devices=1):
  """What process_child.py saves of `count` processes."""
  out = folder / f'{count}_{devices}.npz'
  address = f'127.0.0.1:{free_port()}'
  flag = f'--xla_force_host_platform_device_count={devices}'
  children = [
    subprocess.Popen(
      [sys.executable, CHILD, out, address, str(count), str(index)],
      env={**environment, 'XLA_FLAGS': flag},
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(max(count, 1))
  ]
  for child in children:
    _, err = child.communicate(timeout=900)
    assert child.returncode == 0, err
  return dict(np.load(out))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('processes')


@pytest.fixture(scope='module')
def alone(folder, child_environment):
  return compute(folder, child_environment, 0)


@pytest.mark.parametrize(
  ('count', 'devices'),
  [
    (2, 1),
    pytest.param(0, 8, marks=pytest.mark.slow),
    pytest.param(2, 4, marks=pytest.mark.slow),
    pytest.param(4, 1, marks=pytest.mark.slow),
  ],
)
def test_processes_compute_what_one_does(
  folder, child_environment, alone, count, devices
):
  together = compute(folder, child_environment, count, devices)
  assert alone['devices'] == 1
  assert together['devices'] == max(count, 1) * devices
  differences = {
    name: np.abs(together[name] - alone[name]).max()
    for name in ('first_loss', 'losses', 'variables', 'embeddings')
  }
  relative = np.abs(together['variables'] - alone['variables'])
  differences['relative'] = (relative / alone['scales']).max()
  shown = {name: f'{value:.1e}' for name, value in differences.items()}
  print(f'\n{max(count, 1)} processes x {devices} devices: {shown}')
  assert alone['losses'][0] != alone['losses'][-1]
  assert np.ptp(alone['embeddings'], axis=0).max() > 1e-3
  assert differences['first_loss'] <= 1e-5 * abs(alone['first_loss'][0])
  assert differences['losses'] <= 1e-9
  assert differences['variables'] <= 1e-9
  assert differences['relative'] <= 1e-9
  assert differences['embeddings'] <= 1e-6  # the host has them in float32


def launch(start, flags, count):
  """Processes of one run."""
  address = f'--coordinator=127.0.0.1:{free_port()}'
  flags = [*flags, address, f'--num_processes={count}']
  return [start(*flags, f'--process_id={i}') for i in range(count)]


def others_stop(start, finish, flags, workdir, count, victim):
  """Kills one after the first checkpoint; all others end with a sentence."""
  children = launch(start, flags, count)
  saved = workdir / 'checkpoints' / '6'
  while not saved.exists():
    assert children[0].poll() is None, children[0].communicate()
    time.sleep(0.01)
  killed = children.pop(victim)
  killed.send_signal(signal.SIGKILL)
  begin = time.monotonic()
  for child in children:
    child.wait(timeout=150)
  seconds = time.monotonic() - begin
  print(
    f'\nprocess {victim} of {count} killed: others ended in {seconds:.1f} s'
  )
  assert seconds < 120
  finish(killed)
  for stopped in map(finish, children):
    assert stopped.returncode == 1, stopped.stderr
    assert 'one of them was probably killed' in stopped.stderr


@pytest.mark.slow
@pytest.mark.parametrize(('count', 'victim'), [(2, 0), (4, 2)])
def test_whichever_is_killed_the_others_stop(
  start, finish, resumable_flags, tmp_path, count, victim
):
  flags = [*resumable_flags, f'--workdir={tmp_path}']
  others_stop(start, finish, flags, tmp_path, count, victim)


@pytest.mark.slow
def test_a_killed_process_stops_the_others_and_a_restart_goes_on(
  start, finish, resumable_flags, tmp_path
):
  flags = [*resumable_flags, f'--workdir={tmp_path}']
  others_stop(start, finish, flags, tmp_path, count=2, victim=1)

  children = [finish(child) for child in launch(start, flags, 2)]
  for child in children:
    assert child.returncode == 0, child.stderr
  assert re.search(r'the checkpoint of step (6|12|18)\n', children[0].stdout)
  # The library that connects them speaks for itself.
  said = [x for x in children[1].stdout.splitlines() if '[Gloo]' not in x]
  assert not said
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert len(lines) == len(set(lines)) == 17  # 13 of training, 4 validations
  results = (tmp_path / 'results.json').read_text()

  # One process alone restores what two have saved.
  again = finish(start(*flags, '--mode=evaluate'))
  assert again.returncode == 0, again.stderr
  table = re.search(r'"rank1": ([\d.]+)', results)
  after = (tmp_path / 'results.json').read_text()
  assert table[0] == re.search(r'"rank1": ([\d.]+)', after)[0]


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((None, 2, 0), r'--coordinator is missing'),
    (('localhost:1', 2, None), r'--process_id is missing'),
    (('localhost:1', 2, 2), r'--process_id=2 .*--num_processes=2'),
  ],
)
def test_flags_that_do_not_fit(arguments, message):
  with pytest.raises(ValueError, match=message):
    processes.initialize(*arguments)


@pytest.mark.parametrize(
  ('environment', 'expected'),
  [
    ({}, False),
    ({'SLURM_JOB_ID': '3', 'SLURM_NTASKS': '4'}, False),  # no srun
    ({'SLURM_STEP_NUM_TASKS': '1'}, False),
    ({'SLURM_STEP_NUM_TASKS': '4'}, True),
    ({'OMPI_COMM_WORLD_SIZE': '2'}, True),
  ],
)
def test_launchers_announce_processes(environment, expected):
  environment['JAX_PLATFORMS'] = 'cpu'
  assert processes.announced(environment) == expected


def test_alone_nothing_is_initialized():
  if not processes.announced(os.environ):
    processes.initialize()
  assert jax.process_count() == 1
  assert processes.is_first()
  assert processes.agreed(True, due=False)
  assert not processes.agreed(False, due=True)


def test_a_failed_exchange_of_one_process_is_raised():
  with pytest.raises(jax.errors.JaxRuntimeError), processes.together():
    raise jax.errors.JaxRuntimeError('broken')
  sentence = processes.lost(RuntimeError('gone\nand a trace'))
  assert '(gone)' in sentence
  assert 'start the same command' in sentence


def test_rows_of_this_process():
  mesh = sharding.make_mesh()
  place = sharding.batch_sharding(mesh)
  rows = sharding.local_rows(place, 24)
  assert rows.tolist() == list(range(24))
  values = np.random.default_rng(0).normal(size=(24, 2)).astype(np.float32)
  array = sharding.from_local(place, rows, values, 24)
  np.testing.assert_array_equal(np.asarray(array), values)
  assert {s.data.shape for s in array.addressable_shards} == {(3, 2)}
