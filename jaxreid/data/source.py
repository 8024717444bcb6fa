"""A prepared dataset as one memory-mapped table of decoded pixels.

Synopsis:

  train = open_table('synthetic_reid', 'small', 'train', (96, 48))
  train.images[rows]              # uint8 [n, 96, 48, 3]
  train.records.identity[rows]    # int64 [n]

Each image is decoded and resized (antialiased) once, with a progress bar,
into a file beside the dataset; the next start maps that file. Needs no
TensorFlow.
"""

import concurrent.futures
import io
import os
import pathlib
import time
from typing import Any, NamedTuple

import numpy as np
import tqdm
from PIL import Image

# The values of the records' `modality`.
VISIBLE, INFRARED = 0, 1


class Records(NamedTuple):
  """The labels of a table's rows, one int64 array [N] each.

  Attributes:
    identity: the dataset's number of the person.
    camera: 1-based.
    location: cameras of one location share it.
    modality: VISIBLE or INFRARED.
    frame: orders the images of an identity in a camera.
    indoor: 1 where the camera hangs indoors, else 0.
  """

  identity: np.ndarray
  camera: np.ndarray
  location: np.ndarray
  modality: np.ndarray
  frame: np.ndarray
  indoor: np.ndarray


class Table(NamedTuple):
  """Decoded pixels and their labels.

  Attributes:
    images: uint8 [N, H, W, 3], memory-mapped.
    records: labels of the N rows.
    fingerprint: hash of the dataset's pixels, as the prepare command wrote it.
    permutations: (identity, camera) -> [trials, n] frames, the published
      galleries of SYSU-MM01; None where there are none.
    validation_identities: people of the training split whom the dataset sets
      apart for validation.
  """

  images: np.ndarray
  records: Records
  fingerprint: str
  permutations: dict[tuple[int, int], np.ndarray] | None = None
  validation_identities: tuple[int, ...] = ()


def open_table(
  name: str,
  config: str,
  split: str,
  image_size: tuple[int, int],
  data_dir: str | None = None,
) -> Table:
  """Opens a split, preparing (if rendered) and decoding it where necessary.

  Args:
    name: of the dataset, e.g. 'synthetic_reid'.
    config: of its builder, e.g. 'small'; '' if it has none.
    split: 'train' or 'test'.
    image_size: (height, width) of the table.
    data_dir: where datasets live; TFDS's default if None or ''.

  Raises:
    ValueError: if there is no such dataset or config, it is not prepared, or
      images cannot be decoded; the sentence says what to do.
  """
  from tfds_builders import prepare  # lazily: only the host that reads needs it

  folder = prepare.prepare(name, data_dir, config or None)
  height, width = image_size
  stem = folder / 'decoded' / f'{split}_{height}x{width}'
  loaded = _load(stem)
  if loaded is None:
    _decode(folder, split, image_size, stem)
    loaded = _load(stem)
  if loaded is None:
    raise ValueError(f'{stem.parent} does not keep what is written there')
  try:
    return Table(
      *loaded,
      prepare.read_fingerprint(folder)['sha256'],
      prepare.read_permutations(folder),
      tuple(prepare.read_metadata(folder).get('validation_identities', ())),
    )
  except (ValueError, KeyError) as error:
    raise _unreadable(folder, error) from error


def _load(stem: pathlib.Path) -> tuple[np.ndarray, Records] | None:
  """Pixels and labels as decoded; None if they are missing or damaged."""
  try:
    labels = np.load(stem.with_suffix('.records.npy'))
    pixels = np.load(stem.with_suffix('.pixels.npy'), mmap_mode='r')
  except (OSError, ValueError, EOFError):
    return None
  whole = labels.shape == (len(Records._fields), len(pixels))
  return (pixels, Records(*labels)) if whole else None


def _decode(
  folder: pathlib.Path,
  split: str,
  image_size: tuple[int, int],
  stem: pathlib.Path,
):
  """Writes STEM.records.npy and STEM.pixels.npy, each in one move.

  Of several processes one decodes, and the others wait for it.
  """
  from tfds_builders import prepare

  try:
    stem.parent.mkdir(exist_ok=True)
  except OSError as error:
    raise ValueError(
      f'the decoded pixels are kept in {stem.parent}, which cannot be made '
      f'({error.strerror}); copy the dataset to a folder of yours and give it '
      'as --config.dataset.data_dir'
    ) from error
  source = _data_source(folder, split)
  with prepare.locked(stem.with_name(f'.{stem.name}.lock')):
    if _load(stem) is not None:
      return  # another process of this run was faster
    _remove_abandoned(stem)
    part = stem.with_suffix(f'.{os.getpid()}.{time.time_ns()}.part')
    try:
      labels = _decode_all(source, part, image_size, f'decode {split}')
      # The pixels come last: where they exist, everything does.
      _save_labels(stem.with_suffix('.records.npy'), labels)
      os.replace(part, stem.with_suffix('.pixels.npy'))
    finally:
      part.unlink(missing_ok=True)


def _remove_abandoned(stem: pathlib.Path):
  """Removes what decoding left that was killed more than an hour ago."""
  for part in stem.parent.glob(f'{stem.name}.*.part'):
    if time.time() - part.stat().st_mtime > 3600:
      part.unlink(missing_ok=True)


def _data_source(folder: pathlib.Path, split: str) -> Any:
  import tensorflow_datasets as tfds

  decoders = {'image': tfds.decode.SkipDecoding()}
  try:
    builder = tfds.builder_from_directory(folder)
    splits = sorted(builder.info.splits)
    if split in splits:
      source = builder.as_data_source(split, decoders=decoders)
      source[0]  # files are opened by the first read
      return source
  except Exception as error:  # the readers of files have many kinds
    raise _unreadable(folder, error) from error
  raise ValueError(f'{folder} has the splits {splits}, not {split!r}')


def _unreadable(folder: pathlib.Path, error: Exception) -> ValueError:
  return ValueError(
    f'the dataset in {folder} cannot be read ({error}); delete that folder '
    'and prepare it again'
  )


def _decode_all(
  source: Any, part: pathlib.Path, image_size: tuple[int, int], title: str
) -> np.ndarray:
  """Writes every image to `part`; returns the labels, int64 [6, N]."""
  pixels = np.lib.format.open_memmap(
    part, 'w+', np.uint8, (len(source), *image_size, 3)
  )
  labels = np.zeros((len(Records._fields), len(source)), np.int64)
  failures: list[tuple[int, str]] = []

  def decode(row: int):
    who = f'row {row}'
    try:
      record = source[row]
      who = f'{who} ({_describe(record)})'
      labels[:, row] = [record[field] for field in Records._fields]
      pixels[row] = decode_image(record['image'], image_size)
    except (OSError, ValueError, SyntaxError, RuntimeError) as error:
      failures.append((row, f'{who}: {error}'))

  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    decoded = pool.map(decode, range(len(source)))
    for _ in tqdm.tqdm(
      decoded, title, len(source), unit='image', mininterval=1.0
    ):
      pass
  if failures:
    raise ValueError(
      f'{len(failures)} images of {part.parent.parent} cannot be decoded; '
      'delete that folder and prepare it again:\n'
      + '\n'.join(sentence for _, sentence in sorted(failures))
    )
  pixels.flush()
  return labels


def decode_image(data: bytes, image_size: tuple[int, int]) -> np.ndarray:
  """JPEG or PNG bytes -> uint8 [H, W, 3], resized with antialiasing.

  Raises:
    OSError: if the bytes are no complete image.
  """
  with Image.open(io.BytesIO(data)) as image:
    return fit_image(image, image_size)


def fit_image(image: Image.Image, image_size: tuple[int, int]) -> np.ndarray:
  """An opened image -> uint8 [H, W, 3], resized with antialiasing.

  Raises:
    OSError: if its pixels cannot be read to the end.
    ValueError: if they have no range, as `to_rgb` says.
  """
  height, width = image_size
  rgb = to_rgb(image)
  if rgb.size != (width, height):
    rgb = rgb.resize((width, height), Image.Resampling.LANCZOS)
  return np.asarray(rgb)


def to_rgb(image: Image.Image) -> Image.Image:
  """An opened image in three channels of 8 bits.

  Of gray ones with 16 bits the upper 8 are taken; Pillow by itself would make
  everything above 255 white.

  Raises:
    ValueError: on floating-point pixels or more than 16 bits, whose range is
      not known.
  """
  if image.mode == 'F' or image.mode.startswith('I'):
    values = np.asarray(image)
    if image.mode == 'F' or values.min() < 0 or values.max() > 65535:
      raise ValueError(
        'its pixels are floating-point numbers or have more than 16 bits; '
        'save it with 8 bits a channel'
      )
    image = Image.fromarray((values >> 8).astype(np.uint8))
  return image.convert('RGB')


def _describe(record: Any) -> str:
  return ', '.join(
    f'{name} {record[name]}' for name in ('identity', 'camera', 'frame')
  )


def _save_labels(path: pathlib.Path, labels: np.ndarray):
  part = path.with_suffix(f'.{os.getpid()}.part.npy')
  np.save(part, labels)
  os.replace(part, path)
