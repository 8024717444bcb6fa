"""A picture of what searches find: green frames are right, red ones wrong.

Synopsis:

  lists = find_lists(embeddings, protocol, which='random', seed=0)
  picture = draw(lists, table.images, protocol.name)     # uint8 [H, W, 3]

As figure 4 of Zhang et al., "RGB-IR Cross-modality Person ReID based on
Teacher-Student GAN Model" (2020): a query on the left, then its list.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from jaxreid.evaluation.retrieval import RankedList

GREEN, RED, BLACK = (0, 150, 60), (215, 40, 40), (40, 40, 40)
_HEIGHT = 128  # pixels that an image has at least, in whole multiples
_FRAME = 4
_GAP = 4
_TEXT = 14  # room for a line


def draw(
  lists: Sequence[RankedList],
  images: UInt8[np.ndarray, 'n h w 3'],
  title: str = '',
) -> UInt8[np.ndarray, 'H W 3']:
  """One row per query: the query, then its list with distances below.

  Args:
    lists: at least one; they may be of different lengths.
    images: the table that the rows of the lists point into.
    title: written above, such as the name of the search.

  Raises:
    ValueError: if there are no lists.
  """
  if not lists:
    raise ValueError('there are no ranked lists to draw')
  scale = -(-_HEIGHT // images.shape[1])
  height, width = images.shape[1] * scale, images.shape[2] * scale
  step_x = width + 2 * _FRAME + _GAP
  step_y = height + 2 * _FRAME + _TEXT + _GAP
  columns = max(len(found.gallery) for found in lists)
  size = (
    _GAP + (columns + 1) * step_x + 2 * _GAP,
    _GAP + _TEXT + len(lists) * step_y,
  )
  picture = Image.new('RGB', size, 'white')
  pen = ImageDraw.Draw(picture)
  pen.text((_GAP, 2), title, fill=BLACK)

  def place(row: int, x: int, y: int, frame: tuple, text: str):
    corner = (x + width + 2 * _FRAME - 1, y + height + 2 * _FRAME - 1)
    pen.rectangle((x, y, *corner), outline=frame, width=_FRAME)
    pixels = images[row].repeat(scale, axis=0).repeat(scale, axis=1)
    picture.paste(Image.fromarray(pixels), (x + _FRAME, y + _FRAME))
    pen.text((x + _FRAME, y + height + 2 * _FRAME), text, fill=BLACK)

  for i, found in enumerate(lists):
    top = _GAP + _TEXT + i * step_y
    precision = f'AP {100 * found.average_precision:.0f} %'
    place(found.query, _GAP, top, BLACK, precision)
    for j, row in enumerate(found.gallery.tolist()):
      left = 3 * _GAP + (j + 1) * step_x
      color = GREEN if found.right[j] else RED
      place(row, left, top, color, f'{found.distance[j]:.2f}')
  return np.asarray(picture)
