"""A built wheel holds jaxreid and tfds_builders, whole, and nothing else."""

import email
import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import jaxreid

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ('jaxreid', 'tfds_builders')
# Beside the packages, so that they could slip in.
OTHERS = ('benchmarks', 'configs', 'docs', 'tests')
FILES = ('LICENSE', 'README.md', 'pyproject.toml', 'setup.cfg', 'setup.py')


def has_setuptools():
  version = importlib.metadata.version('setuptools').split('.')
  return int(version[0]) >= 77


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """The wheel, built from a copy: an old build/ folder would leak into it."""
  source = tmp_path_factory.mktemp('source')
  for name in PACKAGES + OTHERS:
    if (ROOT / name).exists():
      ignore = shutil.ignore_patterns('__pycache__')
      shutil.copytree(ROOT / name, source / name, ignore=ignore)
  for name in FILES:
    shutil.copy(ROOT / name, source / name)
  command = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '-w', 'wheel']
  if has_setuptools():
    command.append('--no-build-isolation')
  done = subprocess.run(
    [*command, '.'], cwd=source, capture_output=True, text=True, check=False
  )
  # Without setuptools 77 pip has to download it. On CI that is an error.
  if done.returncode and not has_setuptools() and 'CI' not in os.environ:
    pytest.skip("no setuptools>=77 and no network: pip install -e '.[test]'")
  assert done.returncode == 0, done.stdout + done.stderr
  (path,) = (source / 'wheel').glob('*.whl')
  return path


@pytest.fixture(scope='module')
def names(wheel):
  return set(zipfile.ZipFile(wheel).namelist())


def test_only_the_two_packages_are_in_it(names):
  top = {name.split('/')[0] for name in names}
  info = f'jaxreid-{jaxreid.__version__}.dist-info'
  assert top == {*PACKAGES, info}


def test_every_module_but_the_tests_is_in_it(names):
  modules = {
    path.relative_to(ROOT).as_posix()
    for package in PACKAGES
    for path in (ROOT / package).rglob('*.py')
    if not path.name.endswith('_test.py')
  }
  assert {name for name in names if name.endswith('.py')} == modules


def test_data_files_are_in_it(names):
  assert 'jaxreid/py.typed' in names
  for name in ('dual_swin', 'lupi', 'tsgan', 'xiv'):
    assert f'jaxreid/paper_tables/{name}.toml' in names
  builders = [
    path.parent.relative_to(ROOT).as_posix()
    for path in (ROOT / 'tfds_builders').rglob('*_dataset_builder.py')
  ]
  assert 'tfds_builders/synthetic_reid' in builders
  for builder in builders:
    for name in ('README.md', 'CITATIONS.bib', 'TAGS.txt'):
      assert f'{builder}/{name}' in names
  assert 'tfds_builders/npu_reid/cameras.csv' in names
  dummies = {
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / 'tfds_builders').glob('*/dummy_data/**/*')
    if path.is_file()
  }
  assert len(dummies) > 100
  assert dummies <= names


def test_metadata(wheel):
  with zipfile.ZipFile(wheel) as opened:
    (info,) = (n for n in opened.namelist() if n.endswith('METADATA'))
    metadata = email.message_from_bytes(opened.read(info))
    licence = [n for n in opened.namelist() if n.endswith('LICENSE')]
    assert b'Apache License' in opened.read(licence[0])
  assert metadata['Version'] == jaxreid.__version__
  assert set(metadata.get_all('Provides-Extra')) == {
    'convert',
    'cuda',
    'docs',
    'onnx',
    'savedmodel',
    'test',
    'tpu',
    'tpu-dry-run',
  }
  needed = [r for r in metadata.get_all('Requires-Dist') if 'extra' not in r]
  assert len(needed) > 10
  for requirement in needed:
    assert re.fullmatch(r'[\w.-]+>=[\d.]+', requirement)


def test_the_losses_import_from_the_wheel_alone(wheel, tmp_path):
  code = 'import jaxreid.losses; print(jaxreid.__file__)'
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': str(wheel)},
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.startswith(str(wheel))
