"""A prepared folder: what stands in it beside the records, and its safe making.

Synopsis:

  with locked(path): ...                 one process builds, the others wait
  write_fingerprint(folder)              last of all: now the folder counts
  read_fingerprint(folder)['sha256']
  read_metadata(folder)['left_out']
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator

import tensorflow_datasets as tfds
from tqdm import tqdm

from tfds_builders import counts, records

FINGERPRINT = 'fingerprint.json'


def read_fingerprint(folder: str | os.PathLike) -> dict:
  """Returns {'sha256', 'images', 'counts', 'left_out'} of a prepared folder.

  The hash covers all record keys and encoded images in the order of the keys,
  so equal fingerprints mean equal pixels. `counts` has the labels of
  `tfds_builders.counts`; `left_out` lists the images that were left out as
  corrupt.

  Raises:
    FileNotFoundError: the folder was not made by `prepare`.
  """
  return json.loads((pathlib.Path(folder) / FINGERPRINT).read_text())


def read_metadata(folder: str | os.PathLike) -> dict:
  """Returns what the builder noted; {} for a rendered set.

  Keys: 'validation_identities' (people of train that may be kept apart),
  'left_out' ([{path, reason}]), 'identities_left_out' (those without an image
  left), 'duplicates' (groups [{path, identity}] of byte-identical files) and
  'on_disk' (counts of the raw folder). Paths are relative to the raw folder.
  """
  path = pathlib.Path(folder) / 'metadata.json'
  return json.loads(path.read_text()) if path.exists() else {}


def write_fingerprint(folder: pathlib.Path):
  """Counts and hashes all records, with a progress bar."""
  builder = tfds.builder_from_directory(folder)
  total = sum(split.num_examples for split in builder.info.splits.values())
  rows, digests = [], []
  for split, record in tqdm(
    _records(builder), 'Hashing', total, unit='image', mininterval=0.5
  ):
    identity, camera = int(record['identity']), int(record['camera'])
    key = records.record_key(split, identity, camera, record['frame'])
    digests.append((key, hashlib.sha256(record['image']).digest()))
    rows.append((split, identity, camera, int(record['modality'])))
  combined = hashlib.sha256()
  for key, digest in sorted(digests):
    combined.update(key.encode())
    combined.update(digest)
  metadata = read_metadata(folder)
  content = {
    'sha256': combined.hexdigest(),
    'images': len(digests),
    'left_out': [each['path'] for each in metadata.get('left_out', ())],
    'counts': counts.count(rows, metadata.get('validation_identities', ())),
  }
  part = folder / f'{FINGERPRINT}.part'
  part.write_text(json.dumps(content))
  part.replace(folder / FINGERPRINT)


def largest_frames(folder: str | os.PathLike) -> dict[tuple[int, int], int]:
  """Returns (identity, camera) -> largest frame + 1 of the split `test`."""
  largest: dict[tuple[int, int], int] = {}
  for split, record in _records(tfds.builder_from_directory(folder)):
    if split == 'test':
      key = int(record['identity']), int(record['camera'])
      largest[key] = max(largest.get(key, 0), int(record['frame']) + 1)
  return largest


def build(builder: tfds.core.DatasetBuilder, parent: pathlib.Path):
  """Builds what is missing of a folder; removes what a killed build left.

  Whoever calls this holds the lock.
  """
  folder = pathlib.Path(builder.data_path)
  if not (folder / 'dataset_info.json').exists():
    _remove_leftovers(folder)
    with _quiet_tfds():
      builder.download_and_prepare(download_dir=parent / 'downloads')
  if not (folder / FINGERPRINT).exists():
    write_fingerprint(folder)


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
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


def _records(builder: tfds.core.DatasetBuilder) -> Iterator[tuple[str, dict]]:
  decoders = {'image': tfds.decode.SkipDecoding()}
  for split in builder.info.splits:
    for record in builder.as_data_source(split, decoders=decoders):
      yield split, record
