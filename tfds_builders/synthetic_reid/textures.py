"""Garment patterns as tiles of four levels, wrapped around the body.

    tile = pattern_tile(garment)      uint8 [TILE_HEIGHT, TILE_WIDTH], 0..3

Level 0 is the garment's first shade and level 3 its second. Columns are an
angle around the body: the front is at column 0, `PERIOD` columns are one turn,
so that a print on the chest is not seen from behind.
"""

import numpy as np
from PIL import Image, ImageDraw

from tfds_builders.synthetic_reid.identity import Garment

TILE_HEIGHT = 640
PERIOD = 168
TILE_WIDTH = 4 * PERIOD
ANCHOR_ROW = TILE_HEIGHT // 2  # lies on the shoulders or on the hips


def pattern_tile(garment: Garment) -> np.ndarray:
  """Returns the garment's pattern, uint8 levels 0..3."""
  rng = np.random.default_rng(garment.pattern_seed)
  if garment.pattern == 'plain':
    return np.zeros((TILE_HEIGHT, TILE_WIDTH), np.uint8)
  if garment.pattern == 'print':
    return np.tile(_print_turn(rng), (1, TILE_WIDTH // PERIOD))
  # Whole numbers of bands in a turn, so that the tile closes behind the back.
  down = _bands(rng, TILE_HEIGHT, rng.choice((14, 20, 28, 38, 52)))[:, None]
  across = _bands(rng, TILE_WIDTH, PERIOD / rng.integers(4, 11))[None, :]
  if garment.pattern == 'checks':
    return (down + 2 * across).astype(np.uint8)
  both = np.broadcast_to(
    3 * (down if rng.random() < 0.6 else across), (TILE_HEIGHT, TILE_WIDTH)
  )
  return np.ascontiguousarray(both, np.uint8)


def _bands(rng: np.random.Generator, size: int, period: float) -> np.ndarray:
  share = rng.uniform(0.3, 0.6)
  return (np.arange(size) / period % 1.0 < share).astype(np.uint8)


def _print_turn(rng: np.random.Generator) -> np.ndarray:
  """One turn: a motif on chest and back, or small marks all over."""
  turn = Image.new('L', (PERIOD, TILE_HEIGHT))
  draw = ImageDraw.Draw(turn)
  if rng.random() < 0.5:
    front, back = rng.integers(4, size=2).tolist()
    size, back_size = int(rng.integers(14, 26)), int(rng.integers(0, 26))
    row = ANCHOR_ROW + 40
    for column in (0, PERIOD):
      _motif(draw, front, column, row, size)
    _motif(draw, back, PERIOD // 2, row, back_size)
    return np.asarray(turn)
  shape, radius = int(rng.integers(4)), int(rng.integers(4, 9))
  step = int(radius * rng.uniform(2.6, 4.0))
  for row, y in enumerate(range(0, TILE_HEIGHT, step)):
    for x in range(row % 2 * step // 2, PERIOD, step):
      _motif(draw, shape, x, y, radius)
  return np.asarray(turn)


def _motif(draw: ImageDraw.ImageDraw, shape: int, x: int, y: int, r: int):
  if shape == 0:
    draw.ellipse((x - r, y - r, x + r, y + r), fill=3)
  elif shape == 1:
    draw.polygon([(x, y - r), (x + r, y), (x, y + r), (x - r, y)], fill=3)
  elif shape == 2:
    draw.rectangle((x - r, y - r // 2, x + r, y + r // 2), fill=3)
  else:
    draw.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=3)
