"""Paints body parts as labels and light, both small gray images.

    canvas = Canvas()
    canvas.limb(Part.SKIN, (70, 90), (72, 130), 9, 7)
    canvas.labels       'L' image [288, 144]: which part covers a pixel
    canvas.light        'L' image [144, 72]: how much light it reflects

Painting labels instead of colours makes one drawing serve both modalities and
keeps a picture cheap: colours come from a palette afterwards.
"""

import enum
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from tfds_builders.synthetic_reid.pose import Pixel

HEIGHT, WIDTH = 288, 144


class Part(enum.IntEnum):
  """What a pixel shows; the first three carry patterns."""

  BACKGROUND = 0
  UPPER = 1
  LOWER = 2
  COAT = 3
  SKIN = 4
  HAIR = 5
  SHOES = 6
  BAG = 7
  HAT = 8
  STRAP = 9
  FACE = 10
  SOCKS = 11
  SHADOW = 13
  OBSTACLE = 14


_TURN = [
  (math.cos(math.pi * k / 5), math.sin(math.pi * k / 5)) for k in range(6)
]


class Canvas:
  """Labels and light of one picture, painted from back to front.

  `tone` is the brightness of a part's middle, `edge` that of its outline
  relative to it: bodies are round. `lamp` in -1..1 is the side that the light
  comes from.
  """

  def __init__(self, lamp: float = 0.0):
    self._shift = 0.3 * lamp
    self.labels = Image.new('L', (WIDTH, HEIGHT), int(Part.BACKGROUND))
    self.light = Image.new('L', (WIDTH // 2, HEIGHT // 2), 255)
    self._label = ImageDraw.Draw(self.labels)
    self._light = ImageDraw.Draw(self.light)

  def polygon(
    self,
    part: Part,
    outline: Sequence[Pixel],
    tone: float = 1.0,
    edge: float = 0.72,
    core: Sequence[Pixel] | None = None,
  ):
    """Paints a polygon; `core` is its lit middle."""
    self._label.polygon(outline, fill=int(part))
    self._light.polygon(_halved(outline), fill=int(255 * tone * edge))
    if core is not None:
      self._light.polygon(_halved(core), fill=int(255 * tone))

  def limb(
    self,
    part: Part,
    start: Pixel,
    end: Pixel,
    radius: float,
    end_radius: float,
    tone: float = 1.0,
  ):
    """Paints a tapered limb with round ends."""
    outline = _capsule(start, end, radius, end_radius)
    dx = self._shift * radius
    lit = ((start[0] + dx, start[1]), (end[0] + dx, end[1]))
    core = _capsule(*lit, 0.55 * radius, 0.55 * end_radius)
    self.polygon(part, outline, tone, core=core)

  def ellipse(
    self, part: Part, centre: Pixel, rx: float, ry: float, tone: float = 1.0
  ):
    """Paints an ellipse with half-axes rx, ry."""
    x, y = centre
    self._label.ellipse((x - rx, y - ry, x + rx, y + ry), fill=int(part))
    for share, light in ((1.0, 0.75 * tone), (0.65, tone)):
      box = (x - rx * share, y - ry * share, x + rx * share, y + ry * share)
      self._light.ellipse([v / 2 for v in box], fill=int(255 * light))
      x += self._shift * rx

  def column(
    self, part: Part, rows: Sequence[tuple[float, float, float]], tone: float
  ):
    """Paints a trunk-like shape from (row, centre, half-width) downwards."""
    lit = [(y, c + self._shift * w, w) for y, c, w in rows]
    self.polygon(part, _sides(rows, 1.0), tone, core=_sides(lit, 0.55))


def _halved(points: Sequence[Pixel]) -> list[Pixel]:
  return [(x / 2, y / 2) for x, y in points]


def _sides(
  rows: Sequence[tuple[float, float, float]], share: float
) -> list[Pixel]:
  left = [(c - share * w, y) for y, c, w in rows]
  return left + [(c + share * w, y) for y, c, w in reversed(rows)]


def _capsule(a: Pixel, b: Pixel, ra: float, rb: float) -> list[Pixel]:
  dx, dy = b[0] - a[0], b[1] - a[1]
  norm = math.hypot(dx, dy) or 1.0
  ux, uy = dx / norm, dy / norm
  vx, vy = -uy, ux
  near = [
    (a[0] + ra * (c * vx - s * ux), a[1] + ra * (c * vy - s * uy))
    for c, s in _TURN
  ]
  far = [
    (b[0] + rb * (-c * vx + s * ux), b[1] + rb * (-c * vy + s * uy))
    for c, s in _TURN
  ]
  return near + far
