"""Eight simulated CPU devices and strict shapes for every test.

Beside them what tests of whole runs share: the tiny dataset, rendered once a
session, and child processes that train on it.
"""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import ml_collections
import pytest

from tfds_builders import prepare

ROOT = pathlib.Path(__file__).parents[1]

jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='session')
def tiny_data_dir(tmp_path_factory) -> pathlib.Path:
  """Where `synthetic_reid/tiny` lies; not to be changed."""
  data_dir = tmp_path_factory.mktemp('tiny_data')
  prepare.prepare('synthetic_reid', data_dir, 'tiny')
  return data_dir


@pytest.fixture(scope='session')
def child_environment(tmp_path_factory) -> dict[str, str]:
  """One device, as a user has it, and a compilation cache for the session.

  Only jaxreid and tfds_builders can be imported, as after an installation.
  """
  site = tmp_path_factory.mktemp('site')
  for package in ('jaxreid', 'tfds_builders'):
    (site / package).symlink_to(ROOT / package)
  return {
    **{
      name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'
    },
    'JAX_PLATFORMS': 'cpu',
    'JAX_ENABLE_COMPILATION_CACHE': 'true',
    'JAX_COMPILATION_CACHE_DIR': str(tmp_path_factory.mktemp('compiled')),
    'PYTHONPATH': str(site),
    'PYTHONUNBUFFERED': '1',
  }


class Child(NamedTuple):
  """A finished `python -m jaxreid.main`."""

  workdir: pathlib.Path
  returncode: int
  stdout: str
  stderr: str


@pytest.fixture(scope='session')
def start(child_environment) -> Callable[..., subprocess.Popen]:
  """start(*flags, cwd=..., **environment): `python -m jaxreid.main` flags."""

  def start(*flags, cwd=ROOT, **environment) -> subprocess.Popen:
    return subprocess.Popen(
      [sys.executable, '-m', 'jaxreid.main', *map(str, flags)],
      cwd=cwd,
      env={**child_environment, **environment},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  return start


@pytest.fixture(scope='session')
def finish() -> Callable[..., Child]:
  """finish(child, workdir): waits for its end."""

  def finish(child: subprocess.Popen, workdir=pathlib.Path()) -> Child:
    try:
      out, err = child.communicate(timeout=900)
    finally:
      child.kill()
    return Child(workdir, child.returncode, out, err)

  return finish


@pytest.fixture(scope='session')
def tiny_flags(tiny_data_dir) -> list[str]:
  """A run on the tiny set: 4 x 4 images of 48x24, 20 steps an epoch."""
  return [
    f'--config={ROOT}/configs/lupi.py',
    '--config.dataset.config=tiny',
    f'--config.dataset.data_dir={tiny_data_dir}',
    '--config.dataset.image_size=(48, 24)',
    '--config.batch.identities=4',
    '--config.method.padding=2',
    '--config.backbone.nonlocal_blocks=False',
    '--config.evaluation.batch_size=80',
  ]


@pytest.fixture(scope='session')
def resumable_flags(tiny_flags) -> list[str]:
  """24 steps with a checkpoint every 6, chosen by 2 validation identities."""
  return [
    *tiny_flags,
    '--config.batch.images_per_identity=2',
    '--config.dataset.validation_identities=2',
    '--config.schedule.epochs=0.8',
    '--config.log_every=2',
    '--config.checkpoint_every=6',
  ]


@pytest.fixture(scope='session')
def uninterrupted(start, finish, resumable_flags, tmp_path_factory) -> Child:
  """The run that killed ones are compared with."""
  workdir = tmp_path_factory.mktemp('runs') / 'uninterrupted'
  child = start(*resumable_flags, f'--workdir={workdir}')
  finished = finish(child, workdir)
  assert finished.returncode == 0, finished.stderr
  return finished


@pytest.fixture(scope='session')
def trained(start, finish, tiny_flags, tmp_path_factory) -> Child:
  """60 steps, from another folder than the repository's."""
  folder = tmp_path_factory.mktemp('elsewhere')
  flags = [
    '--config.schedule.epochs=3.0',
    '--config.schedule.warmup_epochs=0.5',
    '--config.schedule.decay_epochs=(2.5,)',
    '--config.method.erasing=0.0',
    '--config.log_every=5',
    '--config.checkpoint_every=50',
  ]
  # A relative workdir, too.
  child = start(*tiny_flags, *flags, '--workdir=run', cwd=folder)
  finished = finish(child, folder / 'run')
  assert finished.returncode == 0, finished.stderr
  return finished


@pytest.fixture(scope='session')
def restored() -> Callable[[pathlib.Path, int], Any]:
  """restored(workdir, step): a run's checkpoint, on this process's devices."""

  # Not on top: shapes are checked in modules imported after this file.
  from jaxreid import checkpoint, experiment

  def restored(workdir: pathlib.Path, step: int):
    saved = json.loads((workdir / 'config.json').read_text())
    setup = experiment.build(ml_collections.ConfigDict(saved))
    with checkpoint.open_checkpoints(workdir) as checkpoints:
      return checkpoint.restore(checkpoints, setup.shapes(), step)

  return restored
