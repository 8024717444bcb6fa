"""Draws a contact sheet: identities in rows, cameras in columns.

python -m tfds_builders.synthetic_reid.contact_sheet docs/sheet.jpg
"""

import argparse
import io
from collections.abc import Sequence

from PIL import Image, ImageDraw

from tfds_builders.synthetic_reid.cameras import CAMERAS
from tfds_builders.synthetic_reid.render import render

CELL_WIDTH, CELL_HEIGHT, HEADER = 108, 216, 30
FIRST_IDENTITY, ROWS = 1, 8


def contact_sheet(
  first: int = FIRST_IDENTITY, rows: int = ROWS, seed: int = 0
) -> Image.Image:
  """Returns one image of each of `rows` identities from each camera."""
  size = (CELL_WIDTH * len(CAMERAS), HEADER + CELL_HEIGHT * rows)
  sheet = Image.new('RGB', size, 'white')
  draw = ImageDraw.Draw(sheet)
  for column, camera in enumerate(CAMERAS.values()):
    left = column * CELL_WIDTH
    label = f'camera {camera.number}\n{camera.modality}'
    draw.multiline_text((left + 6, 3), label, fill='black', spacing=1)
    for row in range(rows):
      # Other frames in other rows, so that the sheet shows all views.
      jpeg = render(seed, first + row, camera.number, row + column)
      cell = Image.open(io.BytesIO(jpeg)).resize((CELL_WIDTH, CELL_HEIGHT))
      sheet.paste(cell, (left, HEADER + row * CELL_HEIGHT))
  return sheet


def main(arguments: Sequence[str] | None = None):
  """Writes the contact sheet to the file named on the command line."""
  parser = argparse.ArgumentParser(description=contact_sheet.__doc__)
  parser.add_argument('out', help='a .jpg file')
  parser.add_argument('--first', type=int, default=FIRST_IDENTITY)
  options = parser.parse_args(arguments)
  contact_sheet(options.first).save(options.out, quality=80)


if __name__ == '__main__':
  main()
