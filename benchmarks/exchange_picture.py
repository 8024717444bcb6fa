"""A picture of MAG: pairs of images, before and after.

  python benchmarks/exchange_picture.py docs/exchange.jpg

draws people of the rendered set, two to a row: visible original, the two
images after the exchange, infrared original.

  python benchmarks/exchange_picture.py out.jpg --pair a.png b.png

does so with any two aligned images, such as those of a set for detection.
"""

import argparse
import io
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxreid.augment.exchange import exchange
from tfds_builders.synthetic_reid.render import render

CELL = (216, 108)  # height, width
PEOPLE, PER_ROW = 8, 2
VISIBLE, INFRARED = (1, 2, 4, 5), (3, 6)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('out', type=pathlib.Path)
  parser.add_argument('--pair', type=pathlib.Path, nargs=2)
  parser.add_argument('--seed', type=int, default=32)
  options = parser.parse_args()
  if options.pair:
    originals = [Image.open(path) for path in options.pair]
    size = originals[0].size
    visible, infrared = (
      np.asarray(image.convert('RGB').resize(size))[None] for image in originals
    )
  else:
    visible, infrared = rendered()
  picture(visible, infrared, options.seed).save(options.out, quality=80)


def rendered() -> tuple[np.ndarray, np.ndarray]:
  """[PEOPLE, *CELL, 3] of each modality, all cameras, other frames."""

  def of(cameras: tuple[int, ...]) -> np.ndarray:
    images = []
    for i in range(PEOPLE):
      jpeg = render(0, i + 1, cameras[i % len(cameras)], i)
      image = Image.open(io.BytesIO(jpeg)).resize((CELL[1], CELL[0]))
      images.append(np.asarray(image))
    return np.stack(images)

  return of(VISIBLE), of(INFRARED)


def picture(
  visible: np.ndarray, infrared: np.ndarray, seed: int
) -> Image.Image:
  """Four images a pair, PER_ROW pairs a row."""
  given = (jnp.asarray(visible), jnp.asarray(infrared))
  new = exchange(jax.random.key(seed), *given, probability=1.0, area=(0.1, 0.4))
  columns = [np.asarray(x) for x in (visible, *new, infrared)]
  rows = []
  for first in range(0, len(visible), PER_ROW):
    cells = []
    for i in range(first, min(first + PER_ROW, len(visible))):
      for column in columns:
        cells += [column[i], _white(len(column[i]), 3)]
      cells.append(_white(len(visible[i]), 9))
    rows += [np.concatenate(cells, axis=1)]
  return Image.fromarray(np.concatenate(rows))


def _white(height: int, width: int) -> np.ndarray:
  return np.full((height, width, 3), 255, np.uint8)


if __name__ == '__main__':
  main()
