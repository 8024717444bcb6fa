"""What the builders of raw image folders share: items, checks, records.

Synopsis:

  found = builder_module.find(manual_dir, config)     lists, reads no image
  faults, duplicates = check(found.items, ('JPEG',))  reads every image once
  found = without(found, faults, duplicates)
  shards(found.items, 'sysu_mm01')['test']
"""

import collections
import concurrent.futures
import functools
import hashlib
import io
import itertools
import pathlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from tfds_builders import records

VISIBLE, INFRARED = records.MODALITIES

# Images of a file: one shard is held in memory while it is written.
_SHARD = 2048

# Infrared images have one channel or three equal ones; BMP may keep the former
# with a table of grays.
_INFRARED_MODES = {
  'JPEG': ('RGB', 'L'),
  'PNG': ('RGB', 'L'),
  'BMP': ('RGB', 'L', 'P'),
}


class Item(NamedTuple):
  """An image file and what its place in the folder says.

  Attributes:
    path: of the file.
    split: 'train' or 'test'.
    identity: number of the person, unique over both splits.
    camera: 1-based.
    frame: 0-based place among the sorted files of this person and camera on
      disk, so that it does not depend on which files are left out.
    modality: 'visible' or 'infrared'.
    location: place of the camera.
    indoor: whether the camera hangs indoors.
  """

  path: pathlib.Path
  split: str
  identity: int
  camera: int
  frame: int
  modality: str
  location: int
  indoor: bool


class Found(NamedTuple):
  """What a raw folder holds.

  Attributes:
    root: the folder of the layout; paths in `metadata` are relative to it.
    items: the images of both splits, in the order of their records.
    metadata: for metadata.json.
    permutations: (identity, camera) -> int64 [trials, n], 0-based frames, if
      the folder has published ones.
  """

  root: pathlib.Path
  items: Sequence[Item]
  metadata: dict[str, Any]
  permutations: dict[tuple[int, int], np.ndarray] | None = None


class Fault(NamedTuple):
  """An image that cannot go into a dataset, and why: 'is empty'."""

  path: pathlib.Path
  reason: str


def check(
  items: Sequence[Item], formats: Collection[str]
) -> tuple[list[Fault], list[list[Item]]]:
  """Reads and decodes every image on a thread pool, with a progress bar.

  Args:
    items: the images; no file twice.
    formats: what they may be encoded as, of 'JPEG', 'PNG' and 'BMP'.

  Returns:
    All faults, and the groups of byte-identical files among the rest.
  """
  faults = []
  groups = collections.defaultdict(list)
  with concurrent.futures.ThreadPoolExecutor() as pool:
    verdicts = pool.map(lambda item: _inspect(item, formats), items)
    bar = tqdm(
      verdicts, 'Checking images', len(items), unit='image', mininterval=0.5
    )
    try:
      for item, (reason, digest) in zip(items, bar, strict=True):
        if reason:
          faults.append(Fault(item.path, reason))
        else:
          groups[digest].append(item)
    except BaseException:
      pool.shutdown(cancel_futures=True)
      raise
  return faults, [group for group in groups.values() if len(group) > 1]


def without(
  found: Found, faults: Sequence[Fault], duplicates: Sequence[Sequence[Item]]
) -> Found:
  """Leaves out faulty images and notes them, and duplicates, in the metadata.

  Raises:
    ValueError: if no image of a split is left.
  """
  reasons = {fault.path: fault.reason for fault in faults}
  kept = [item for item in found.items if item.path not in reasons]
  left_out = [item for item in found.items if item.path in reasons]
  for split in ('train', 'test'):
    if not any(item.split == split for item in kept):
      raise ValueError(
        f'no image of the split {split} in {found.root} can be used'
      )
  gone = {item.identity for item in left_out}
  gone -= {item.identity for item in kept}
  paths = {item.path for item in found.items}
  # Images of two people are the graver mistake.
  graver_first = sorted(
    duplicates, key=lambda group: len({item.identity for item in group}) < 2
  )
  metadata = {
    **found.metadata,
    'left_out': [
      {'path': _relative(item, found), 'reason': reasons[item.path]}
      for item in left_out
    ],
    'identities_left_out': sorted(gone),
    'duplicates': [
      [
        {'path': _relative(item, found), 'identity': item.identity}
        for item in group
      ]
      for group in graver_first
      if any(item.path in paths for item in group)
    ],
  }
  return found._replace(items=kept, metadata=metadata)


def shards(
  items: Sequence[Item], title: str, to_png: bool = False
) -> dict[str, list[Callable[[], Iterator[tuple[str, dict]]]]]:
  """Returns what `_shard_iterators_per_split` has to: split -> its shards.

  `tfds.core.ShardBasedBuilder` writes a shard as it comes. (The more usual
  `GeneratorBasedBuilder` collects a whole split first, and from 1 GB on needs
  TensorFlow for that.)

  Args:
    items: of both splits.
    title: of the progress bars, such as the dataset's name.
    to_png: encodes the pixels as PNG, in three channels; without it the bytes
      of the files are kept.
  """
  found: dict[str, list[Callable[[], Iterator[tuple[str, dict]]]]] = {}
  for split in ('train', 'test'):
    chosen = [item for item in items if item.split == split]
    stream = _examples(chosen, f'Writing {title} {split}', to_png)
    full = functools.partial(itertools.islice, stream, _SHARD)
    count = (len(chosen) - 1) // _SHARD
    found[split] = [full] * count + [functools.partial(iter, stream)]
  return found


def _examples(
  items: Sequence[Item], title: str, to_png: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
  for item in tqdm(items, title, unit='image', mininterval=0.5):
    data = item.path.read_bytes()
    key = records.record_key(item.split, item.identity, item.camera, item.frame)
    yield (
      key,
      {
        'image': _png(data) if to_png else data,
        'identity': item.identity,
        'camera': item.camera,
        'modality': item.modality,
        'location': item.location,
        'indoor': item.indoor,
        'frame': item.frame,
      },
    )


def _inspect(item: Item, formats: Collection[str]) -> tuple[str, bytes]:
  """Returns (what is wrong or '', hash of the bytes)."""
  try:
    data = item.path.read_bytes()
  except IsADirectoryError:
    return 'is a folder, not an image', b''
  except OSError as error:
    return f'cannot be read ({error.strerror})', b''
  if not data:
    return 'is empty (0 bytes)', b''
  try:
    with Image.open(io.BytesIO(data)) as image:
      image.load()
      reason = _wrong_kind(image, item.modality, formats)
  except Image.UnidentifiedImageError:
    reason = 'is corrupt: no image can be recognised in it'
  except Exception as error:  # decoders of damaged bytes have many kinds
    reason = f'is corrupt: {error}'
  return reason, hashlib.sha256(data).digest()


def _wrong_kind(
  image: Image.Image, modality: str, formats: Collection[str]
) -> str:
  # MPO is what some cameras write: a JPEG with a preview behind it.
  encoding = 'JPEG' if image.format == 'MPO' else str(image.format)
  if encoding not in formats:
    return f'is encoded as {encoding}, not as {" or ".join(formats)}'
  modes = ('RGB',) if modality == VISIBLE else _INFRARED_MODES[encoding]
  if image.mode not in modes:
    return (
      f'has the mode {image.mode}; {modality} images have the mode '
      f'{" or ".join(modes)}'
    )
  return ''


def _relative(item: Item, found: Found) -> str:
  return item.path.relative_to(found.root).as_posix()


def _png(data: bytes) -> bytes:
  with Image.open(io.BytesIO(data)) as image:
    buffer = io.BytesIO()
    image.convert('RGB').save(buffer, 'PNG', compress_level=1)
  return buffer.getvalue()
