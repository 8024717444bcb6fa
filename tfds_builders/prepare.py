"""Prepares a dataset: renders or converts it once, then hands out its folder.

    folder = prepare('synthetic_reid')              pathlib.Path
    python -m tfds_builders.prepare synthetic_reid --config=small

Reading needs neither this package nor TensorFlow:

    builder = tfds.builder_from_directory(folder)
    source = builder.as_data_source(
        'train', decoders={'image': tfds.decode.SkipDecoding()})
"""

import argparse
import collections
import contextlib
import fcntl
import hashlib
import importlib
import json
import logging
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator, Sequence

import tensorflow_datasets as tfds

from tfds_builders import records

DATASETS = ('synthetic_reid',)
COMING = ('sysu_mm01', 'regdb', 'npu_reid')
FINGERPRINT = 'fingerprint.json'


def prepare(
  name: str,
  data_dir: str | os.PathLike | None = None,
  config: str | None = None,
) -> pathlib.Path:
  """Returns the folder of a prepared dataset, preparing it when it is absent.

  Two processes may call this at once: one prepares, the other waits. A build
  that is killed leaves nothing that could be taken for a dataset, and the next
  call removes what it left.

  Args:
    name: such as 'synthetic_reid'.
    data_dir: parent of all datasets; $TFDS_DATA_DIR or ~/tensorflow_datasets
      by default.
    config: a config of the builder; its first one by default.

  Returns:
    The version folder, to be opened with `tfds.builder_from_directory`.

  Raises:
    ValueError: unknown dataset or config, in one sentence.
  """
  parent = _data_dir(data_dir)
  builder = _builder(name, parent, config)
  folder = pathlib.Path(builder.data_path)
  if (folder / FINGERPRINT).exists():
    return folder
  with _locked(parent / f'.{name}.{builder.builder_config.name}.lock'):
    if not (folder / 'dataset_info.json').exists():
      _remove_leftovers(folder)
      with _quiet_tfds():
        builder.download_and_prepare(download_dir=parent / 'downloads')
    if not (folder / FINGERPRINT).exists():
      _write_fingerprint(folder)
  return folder


def read_fingerprint(folder: str | os.PathLike) -> dict:
  """Returns {'sha256': ..., 'images': ...} of a prepared folder.

  The hash covers all record keys and encoded images in the order of the keys,
  so equal fingerprints mean equal pixels.

  Raises:
    FileNotFoundError: the folder was not made by `prepare`.
  """
  return json.loads((pathlib.Path(folder) / FINGERPRINT).read_text())


def image_counts(folder: str | os.PathLike) -> dict:
  """Returns {(split, camera): images} and {(split, 'identities'): people}."""
  counts: collections.Counter = collections.Counter()
  people = collections.defaultdict(set)
  for split, record in _records(folder):
    counts[split, int(record['camera'])] += 1
    people[split].add(int(record['identity']))
  for split, identities in people.items():
    counts[split, 'identities'] = len(identities)
  return dict(counts)


def _data_dir(data_dir: str | os.PathLike | None) -> pathlib.Path:
  chosen = (
    data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  )
  return pathlib.Path(chosen).expanduser().resolve()


def _builder(name: str, parent: pathlib.Path, config: str | None):
  if name in COMING:
    raise ValueError(
      f"The builder of '{name}' does not exist yet: use 'synthetic_reid', "
      'which needs no licence and no download.'
    )
  if name not in DATASETS:
    raise ValueError(
      f"There is no dataset '{name}': choose one of {', '.join(DATASETS)}."
    )
  module = importlib.import_module(
    f'tfds_builders.{name}.{name}_dataset_builder'
  )
  configs = [c.name for c in module.Builder.BUILDER_CONFIGS]
  if config is not None and config not in configs:
    raise ValueError(
      f"'{name}' has no config '{config}': choose one of {', '.join(configs)}."
    )
  return module.Builder(
    config=config, data_dir=parent, file_format='array_record'
  )


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
  """Holds a lock that the system frees even when this process is killed."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield


def _remove_leftovers(folder: pathlib.Path):
  # Under the lock nobody builds, so whatever is unfinished is dead.
  for leftover in folder.parent.glob(f'incomplete.*_{folder.name}'):
    shutil.rmtree(leftover)
  if folder.exists():
    shutil.rmtree(folder)


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
  """Silences TFDS: its bars, its banner and its notes on cloud storage."""
  tfds.disable_progress_bar()
  logger = logging.getLogger('absl')
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    with open(os.devnull, 'w') as sink, contextlib.redirect_stdout(sink):
      yield
  finally:
    logger.setLevel(level)
    tfds.enable_progress_bar()


def _records(folder: str | os.PathLike) -> Iterator[tuple[str, dict]]:
  builder = tfds.builder_from_directory(folder)
  decoders = {'image': tfds.decode.SkipDecoding()}
  for split in builder.info.splits:
    for record in builder.as_data_source(split, decoders=decoders):
      yield split, record


def _write_fingerprint(folder: pathlib.Path):
  digests = []
  for split, record in _records(folder):
    key = records.record_key(
      split, record['identity'], record['camera'], record['frame']
    )
    digests.append((key, hashlib.sha256(record['image']).digest()))
  total = hashlib.sha256()
  for key, digest in sorted(digests):
    total.update(key.encode())
    total.update(digest)
  part = folder / f'{FINGERPRINT}.part'
  content = {'sha256': total.hexdigest(), 'images': len(digests)}
  part.write_text(json.dumps(content))
  part.replace(folder / FINGERPRINT)


def _report(folder: pathlib.Path, seconds: float) -> str:
  counts = image_counts(folder)
  splits = sorted({split for split, _ in counts}, reverse=True)
  lines = []
  for split in splits:
    cameras = sorted(c for s, c in counts if s == split and c != 'identities')
    per_camera = ', '.join(f'{c}: {counts[split, c]}' for c in cameras)
    total = sum(counts[split, c] for c in cameras)
    lines.append(
      f'{split}: {counts[split, "identities"]} identities, {total} images '
      f'(camera {per_camera})'
    )
  lines.append(f'time: {seconds:.1f} s')
  lines.append(f'folder: {folder}')
  lines.append(f'fingerprint: {read_fingerprint(folder)["sha256"]}')
  return '\n'.join(lines)


def main(arguments: Sequence[str] | None = None):
  """Prepares a dataset from the command line and says what it holds."""
  parser = argparse.ArgumentParser(
    prog='python -m tfds_builders.prepare', description='Prepare a dataset.'
  )
  parser.add_argument('name', help=f'one of {", ".join(DATASETS)}')
  parser.add_argument('--config', help="the builder's config, such as small")
  parser.add_argument('--data_dir', help='default: $TFDS_DATA_DIR or '
                      '~/tensorflow_datasets')  # fmt: skip
  options = parser.parse_args(arguments)
  started = time.perf_counter()
  try:
    folder = prepare(options.name, options.data_dir, options.config)
  except ValueError as error:
    sys.exit(str(error))
  print(_report(folder, time.perf_counter() - started))


if __name__ == '__main__':
  main()
