"""Eight simulated CPU devices and strict shapes for every test.

Beside them what tests of whole runs share: the tiny dataset, rendered once a
session, and child processes that train on it.
"""

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
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
