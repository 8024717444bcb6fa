"""Folders of pictures: found, read, and told visible from infrared.

Synopsis:

  paths = find_images('pictures')
  pictures, failures = read_images(paths, image_size=(96, 48))
  guess_modality(pictures[0].pixels)      # 'visible' or 'infrared'
"""

import concurrent.futures
import hashlib
import io
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxreid.data.source import fit_image

SUFFIXES = (
  *('.avif', '.bmp', '.gif', '.jfif', '.jp2', '.jpeg', '.jpg', '.pgm'),
  *('.png', '.ppm', '.tif', '.tiff', '.webp'),
)
# Infrared cameras write three nearly equal channels; see `colourfulness`.
GRAY_BELOW = 4.0


class Picture(NamedTuple):
  """A file that was read.

  Attributes:
    path: absolute, as a string.
    size: bytes.
    modified: nanoseconds, as the file system says.
    sha256: of the bytes.
    pixels: uint8 [H, W, 3] of the size asked for, upright.
  """

  path: str
  size: int
  modified: int
  sha256: str
  pixels: UInt8[np.ndarray, 'h w 3']


def find_images(folder: str | os.PathLike[str]) -> list[str]:
  """Absolute paths of all images in a folder and those in it, sorted.

  Hidden files and folders are left out.

  Raises:
    ValueError: if it is no folder, a folder in it cannot be read, or it has no
      images.
  """

  def refuse(error: OSError) -> None:
    raise ValueError(
      f'{error.filename} cannot be read ({error.strerror}); make it readable, '
      'or give a folder without it'
    ) from error

  # A folder has one name, so that its files are not indexed twice.
  top = pathlib.Path(os.path.abspath(os.path.expanduser(folder)))
  if not top.is_dir():
    raise ValueError(f'{top} is no folder; give a folder of images')
  found = []
  for where, folders, names in os.walk(top, onerror=refuse):
    # In place: where the walk goes on.
    folders[:] = [name for name in folders if not name.startswith('.')]
    found += [
      os.path.join(where, name)
      for name in names
      if name.lower().endswith(SUFFIXES) and not name.startswith('.')
    ]
  if not found:
    raise ValueError(
      f'{top} has no images; files that end in {", ".join(SUFFIXES)} are '
      'looked for, also in folders within'
    )
  return sorted(found)


def read_images(
  paths: Sequence[str], image_size: tuple[int, int]
) -> tuple[list[Picture], list[tuple[str, str]]]:
  """Reads and resizes images by several threads.

  Returns:
    What was read, in the order of the paths, and (path, reason) of what could
    not be.
  """
  pictures, failures = [], []
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for path, read in zip(
      paths, pool.map(lambda p: _read(p, image_size), paths), strict=True
    ):
      if isinstance(read, Picture):
        pictures.append(read)
      else:
        failures.append((path, read))
  return pictures, failures


def _read(path: str, image_size: tuple[int, int]) -> Picture | str:
  """The picture, or why there is none."""
  try:
    status = os.stat(path)
    data = pathlib.Path(path).read_bytes()
    if not data:
      return 'the file is empty'
    with Image.open(io.BytesIO(data)) as image:
      pixels = fit_image(ImageOps.exif_transpose(image), image_size)
  except UnidentifiedImageError:
    return 'no image that Pillow can read'
  except OSError as error:
    return error.strerror or str(error)
  except Exception as error:  # decoders of damaged bytes have many kinds
    return str(error) or type(error).__name__
  digest = hashlib.sha256(data).hexdigest()
  return Picture(path, status.st_size, status.st_mtime_ns, digest, pixels)


def colourfulness(pixels: UInt8[np.ndarray, 'h w 3']) -> float:
  """How colourful an image is: 0 for gray, about 15 for muted colours.

  Of the differences r - g and (r + g) / 2 - b over all pixels, the root of the
  summed variances plus 0.3 times that of the summed squared means (Hasler and
  Suesstrunk, "Measuring colourfulness in natural images", 2003).
  """
  r, g, b = np.moveaxis(pixels.astype(np.float64), -1, 0)
  red_green, yellow_blue = r - g, (r + g) / 2 - b
  spread = np.hypot(red_green.std(), yellow_blue.std())
  shift = np.hypot(red_green.mean(), yellow_blue.mean())
  return float(spread + 0.3 * shift)


def guess_modality(pixels: UInt8[np.ndarray, 'h w 3']) -> str:
  """'infrared' if the image is gray, else 'visible'.

  A guess: a visible image that was saved in gray, or a thermal one in false
  colours, is taken for the other; say the modality where it is known.
  """
  return 'infrared' if colourfulness(pixels) < GRAY_BELOW else 'visible'
