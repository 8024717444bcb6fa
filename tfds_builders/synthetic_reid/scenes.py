"""Background scenes, one per location, in visible and infrared light.

    scene = scene_picture(CAMERAS[2])        'RGB' or 'L', larger than a crop

A scene is painted as materials once; its colours follow from a palette, so a
visible and an infrared camera at one location see one geometry.
"""

import functools

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from tfds_builders.synthetic_reid.cameras import Camera, white_balance

SCENE_HEIGHT, SCENE_WIDTH = 330, 560
HORIZON = 175  # row where the floor begins

# name: (red, green, blue), near-infrared reflectance
_MATERIALS = {
  'wall': ((0.72, 0.70, 0.64), 0.62),
  'floor': ((0.52, 0.49, 0.45), 0.48),
  'line': ((0.38, 0.36, 0.33), 0.38),
  'door': ((0.47, 0.31, 0.20), 0.66),
  'frame': ((0.30, 0.30, 0.32), 0.30),
  'glass': ((0.62, 0.72, 0.80), 0.18),
  'shelf': ((0.35, 0.42, 0.52), 0.55),
  'poster': ((0.72, 0.30, 0.26), 0.74),
  'paper': ((0.90, 0.89, 0.84), 0.80),
  'brick': ((0.58, 0.38, 0.32), 0.52),
  'paving': ((0.60, 0.59, 0.57), 0.50),
  'leaf': ((0.24, 0.40, 0.17), 0.88),
  'leaf_dark': ((0.14, 0.26, 0.12), 0.68),
  'trunk': ((0.30, 0.23, 0.17), 0.42),
  'grass': ((0.38, 0.50, 0.24), 0.80),
  'sky': ((0.78, 0.85, 0.92), 0.12),
  'metal': ((0.44, 0.47, 0.50), 0.36),
}
_NAMES = list(_MATERIALS)


@functools.cache
def scene_picture(camera: Camera) -> Image.Image:
  """Returns the scene of a camera in its own light."""
  labels = _geometry(camera.location)
  palette = np.zeros((256, 3))
  for index, (colour, infrared) in enumerate(_MATERIALS.values()):
    visible = camera.modality == 'visible'
    palette[index] = colour if visible else (infrared,) * 3
  if camera.modality == 'visible':
    palette *= white_balance(camera)
  else:
    palette *= camera.gain
  levels = np.clip(palette * 215, 0, 255).astype(np.uint8)
  picture = Image.fromarray(levels[np.asarray(labels)])
  light = _light(camera.location)
  picture = ImageChops.multiply(picture, Image.merge('RGB', (light,) * 3))
  return picture if camera.modality == 'visible' else picture.convert('L')


@functools.cache
def _geometry(location: int) -> Image.Image:
  rng = np.random.default_rng((4711, location))
  image = Image.new('L', (SCENE_WIDTH, SCENE_HEIGHT))
  painter = {1: _room, 2: _office, 4: _gate, 5: _garden, 6: _passage}[location]
  painter(_Brush(image), rng)
  return image


class _Brush:
  """Draws materials by name."""

  def __init__(self, image: Image.Image):
    self._draw = ImageDraw.Draw(image)

  def box(self, name: str, x0: float, y0: float, x1: float, y1: float):
    self._draw.rectangle((x0, y0, x1, y1), fill=_NAMES.index(name))

  def shape(self, name: str, *points: tuple[float, float]):
    self._draw.polygon(points, fill=_NAMES.index(name))

  def blob(self, name: str, x: float, y: float, rx: float, ry: float):
    self._draw.ellipse((x - rx, y - ry, x + rx, y + ry), _NAMES.index(name))

  def line(self, name: str, x0, y0, x1, y1, width: int = 2):
    self._draw.line((x0, y0, x1, y1), _NAMES.index(name), width)

  def floor(self, name: str, joint: str, step: float):
    """A floor with joints running to a vanishing point."""
    self.box(name, 0, HORIZON, SCENE_WIDTH, SCENE_HEIGHT)
    middle = SCENE_WIDTH / 2
    for k in range(-14, 15):
      self.line(joint, middle + k * step / 3, HORIZON, middle + k * step * 1.4,
                SCENE_HEIGHT, 1)  # fmt: skip
    y, gap = float(HORIZON), 8.0
    while y < SCENE_HEIGHT:
      self.line(joint, 0, y, SCENE_WIDTH, y, 1)
      y, gap = y + gap, gap * 1.35


def _room(brush: _Brush, rng: np.random.Generator):
  brush.box('wall', 0, 0, SCENE_WIDTH, HORIZON)
  brush.floor('floor', 'line', 90)
  for x in (30, 330):
    brush.box('frame', x - 4, 20, x + 84, HORIZON)
    brush.box('door', x, 24, x + 80, HORIZON)
    brush.box('metal', x + 68, 100, x + 76, 106)
  brush.box('frame', 170, 30, 290, 110)
  brush.box('glass', 175, 35, 228, 105)
  brush.box('glass', 233, 35, 285, 105)
  brush.box('poster', 450, 40, 500, 105)
  brush.box('paper', 512, 60, 545, 100)
  brush.box('line', 0, HORIZON - 6, SCENE_WIDTH, HORIZON)


def _office(brush: _Brush, rng: np.random.Generator):
  brush.box('paper', 0, 0, SCENE_WIDTH, HORIZON)
  brush.floor('line', 'frame', 60)
  for x in (10, 250, 420):
    brush.box('shelf', x, 30, x + 110, HORIZON + 12)
    for row in range(4):
      brush.box('frame', x + 6, 36 + row * 36, x + 104, 64 + row * 36)
      for book in range(9):
        name = ('poster', 'wall', 'glass', 'door')[int(rng.integers(4))]
        left = x + 9 + book * 10
        top = 40 + row * 36 + int(rng.integers(8))
        brush.box(name, left, top, left + 7, 63 + row * 36)
  brush.box('door', 150, 10, 215, HORIZON)
  brush.box('glass', 165, 25, 200, 80)
  brush.box('wall', 370, 120, 415, HORIZON + 30)


def _gate(brush: _Brush, rng: np.random.Generator):
  brush.box('sky', 0, 0, SCENE_WIDTH, HORIZON)
  brush.box('leaf_dark', 0, 70, SCENE_WIDTH, HORIZON)
  for _ in range(60):
    x, y = rng.uniform(0, SCENE_WIDTH), rng.uniform(50, 120)
    brush.blob('leaf', x, y, 22, 16)
  brush.floor('paving', 'line', 70)
  for x in (60, 300, 500):
    brush.box('brick', x, 10, x + 46, HORIZON + 10)
    for row in range(12):
      y = 14 + row * 14
      brush.line('line', x, y, x + 46, y, 1)
    brush.box('paving', x - 5, 2, x + 51, 12)
  for x in range(110, 300, 12):
    brush.line('metal', x, 40, x, HORIZON + 4, 3)
  brush.line('metal', 106, 50, 300, 50, 4)
  brush.line('metal', 106, 150, 300, 150, 4)


def _garden(brush: _Brush, rng: np.random.Generator):
  brush.box('sky', 0, 0, SCENE_WIDTH, 90)
  brush.box('grass', 0, 90, SCENE_WIDTH, SCENE_HEIGHT)
  brush.shape('paving', (180, 120), (330, 120), (560, 330), (-60, 330))
  for _ in range(90):
    x, y = rng.uniform(0, SCENE_WIDTH), rng.uniform(70, 125)
    brush.blob('leaf_dark', x, y, rng.uniform(14, 34), rng.uniform(10, 24))
  for x in (70, 250, 400, 520):
    brush.box('trunk', x - 7, 60, x + 7, 165)
    for _ in range(45):
      dx, dy = rng.normal(0, 30), rng.normal(0, 20)
      name = 'leaf' if rng.random() < 0.6 else 'leaf_dark'
      brush.blob(name, x + dx, 45 + dy, 13, 9)
  brush.box('door', 290, 150, 380, 158)
  brush.box('door', 296, 172, 374, 180)
  for x in (298, 370):
    brush.box('frame', x, 150, x + 5, 200)


def _passage(brush: _Brush, rng: np.random.Generator):
  brush.box('brick', 0, 0, SCENE_WIDTH, HORIZON)
  for row in range(16):
    y = row * 11
    brush.line('line', 0, y, SCENE_WIDTH, y, 1)
    for x in range(row % 2 * 14, SCENE_WIDTH, 28):
      brush.line('line', x, y, x, y + 11, 1)
  brush.floor('paving', 'line', 110)
  for x in (50, 360):
    brush.box('frame', x, 20, x + 100, 120)
    brush.box('glass', x + 6, 26, x + 94, 114)
    brush.line('frame', x + 50, 20, x + 50, 120, 4)
  brush.box('metal', 230, 0, 246, HORIZON + 40)
  for _ in range(70):
    brush.blob('leaf', rng.normal(520, 26), rng.normal(160, 24), 10, 8)


@functools.cache
def _light(location: int) -> Image.Image:
  """Uneven light and the grain of surfaces."""
  rng = np.random.default_rng((1914, location))
  y, x = np.mgrid[:SCENE_HEIGHT, :SCENE_WIDTH]
  lamp = rng.uniform(0.2, 0.8, 2) * (SCENE_HEIGHT * 0.5, SCENE_WIDTH)
  away = np.hypot((y - lamp[0]) / SCENE_HEIGHT, (x - lamp[1]) / SCENE_WIDTH)
  light = 1.0 - 0.38 * np.minimum(away, 1.0)
  light = light * np.where(y > HORIZON, 0.94, 1.0)
  for cells in (9, 40, 140):
    shape = (cells, cells * SCENE_WIDTH // SCENE_HEIGHT)
    grain = Image.fromarray(rng.standard_normal(shape).astype(np.float32))
    grain = grain.resize((SCENE_WIDTH, SCENE_HEIGHT), Image.Resampling.BILINEAR)
    light = light * (1 + 0.045 * np.asarray(grain))
  return Image.fromarray(np.clip(255 * light, 0, 255).astype(np.uint8))
