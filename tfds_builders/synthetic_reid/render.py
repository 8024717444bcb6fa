"""Renders one image of the synthetic world: a pure function of its numbers.

    jpeg = render(seed=0, number=7, camera=3, frame=4)      bytes, 288x144

An identity, a camera and a frame give the same bytes in any process, in any
order. Imports NumPy and Pillow only, so that rendering processes start fast.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from tfds_builders.synthetic_reid.cameras import (
  CAMERAS,
  Camera,
  expose,
  white_balance,
  window,
)
from tfds_builders.synthetic_reid.canvas import HEIGHT, WIDTH, Canvas, Part
from tfds_builders.synthetic_reid.difficulty import DIFFICULTY
from tfds_builders.synthetic_reid.figure import draw_figure
from tfds_builders.synthetic_reid.identity import (
  Identity,
  Material,
  draw_identity,
)
from tfds_builders.synthetic_reid.pose import Pose, View, walk
from tfds_builders.synthetic_reid.scenes import scene_picture
from tfds_builders.synthetic_reid.textures import (
  ANCHOR_ROW,
  PERIOD,
  pattern_tile,
)

VIEW_ANGLES = 8


class Wardrobe(NamedTuple):
  """An identity with its pattern tiles, made once per process."""

  person: Identity
  tiles: dict[Part, np.ndarray]


def render(seed: int, number: int, camera: int, frame: int) -> bytes:
  """Returns the JPEG of identity `number` before `camera` at `frame`.

  Args:
    seed: of the whole world.
    number: the identity.
    camera: 1 to 6.
    frame: any number; frames of one identity and camera are independent.

  Returns:
    An RGB JPEG of 288x144 pixels; infrared cameras give equal channels.
  """
  # NumPy pads short seeds with zeros; no camera is 0, so no frame draws from
  # the stream of an identity.
  rng = np.random.default_rng((seed, number, camera, frame))
  return expose(
    _picture(seed, number, CAMERAS[camera], rng), CAMERAS[camera], rng
  )


def _picture(
  seed: int, number: int, camera: Camera, rng: np.random.Generator
) -> Image.Image:
  """The scene with the person in it, before lens and sensor."""
  wardrobe = _wardrobe(seed, number)
  person = wardrobe.person
  view = _view(person, camera, rng)
  phase, swing, x, y, fold_x, fold_y = rng.random(6).tolist()
  swing = 0.0 if swing < 0.08 else 0.6 + 0.5 * swing
  pose = walk(person.body, 2 * math.pi * phase, swing)
  view = view._replace(ground=view.ground + view.scale * pose.lowest)
  canvas = draw_figure(person, pose, view, camera.lamp)
  obstacle = _obstacle(canvas, rng)
  codes = _codes(canvas, wardrobe.tiles, view, pose)
  palette = _palette(person, camera, obstacle)
  light = canvas.light.filter(ImageFilter.BoxBlur(1))
  light = light.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
  light = ImageChops.multiply(light, window(_folds(), fold_x, fold_y))
  if camera.modality == 'visible':
    codes.putpalette(palette)
    body = codes.convert('RGB')
    light = Image.merge('RGB', (light,) * 3)
  else:
    body = codes.point(palette)
  picture = window(scene_picture(camera), x, y)
  cover = canvas.labels.point(_COVER)
  picture.paste(ImageChops.multiply(body, light), mask=cover)
  return picture


def _view(person: Identity, camera: Camera, rng: np.random.Generator) -> View:
  angle, jitter, scale, dx, dy = rng.random(5).tolist()
  yaw = int(angle * VIEW_ANGLES) * 2 * math.pi / VIEW_ANGLES
  yaw += math.radians(DIFFICULTY.yaw_jitter) * (2 * jitter - 1)
  low, high = DIFFICULTY.crop_scale
  tall = HEIGHT * person.body.height * (low + scale * (high - low))
  shift = DIFFICULTY.crop_shift
  return View(
    yaw=yaw,
    pitch=camera.pitch,
    scale=tall,
    centre=WIDTH * (0.5 + shift * (2 * dx - 1) * 2),
    ground=0.5 * (HEIGHT + tall) + HEIGHT * shift * (2 * dy - 1),
  )


def _obstacle(canvas: Canvas, rng: np.random.Generator) -> Material:
  """Now and then puts a post, a crate or a passer-by before the person."""
  chance, kind, place, size, shade, infrared = rng.random(6).tolist()
  gray, red, green, blue = rng.random(4).tolist()
  tint = [0.12 + 0.55 * gray + 0.22 * (c - 0.5) for c in (red, green, blue)]
  colour = (tint[0], tint[1], tint[2])
  if chance < DIFFICULTY.occlusion:
    if kind < 0.35:  # a post
      x, half = WIDTH * (0.25 + 0.5 * place), 5 + 8 * size
      rows = [(0.0, x, half), (float(HEIGHT), x, half)]
      canvas.column(Part.OBSTACLE, rows, 0.8 + 0.2 * shade)
    elif kind < 0.70:  # something low before the legs
      top, left = HEIGHT * (0.66 + 0.16 * size), WIDTH * (place - 0.5)
      box = [
        (left, top),
        (left + WIDTH, top),
        (left + WIDTH, HEIGHT),
        (left, HEIGHT),
      ]
      canvas.polygon(Part.OBSTACLE, box, 0.8 + 0.2 * shade, edge=1.0)
    else:  # half a passer-by at the edge
      x = -0.02 * WIDTH if place < 0.5 else 1.02 * WIDTH
      half = WIDTH * (0.16 + 0.12 * size)
      rows = [
        (55.0, x, half * 0.7),
        (75.0, x, half),
        (160.0, x, half * 0.9),
        (float(HEIGHT), x, half * 0.7),
      ]
      canvas.column(Part.OBSTACLE, rows, 0.9)
      canvas.ellipse(Part.SKIN, (x, 36.0), half * 0.45, 20.0)
  return Material((colour, colour), (infrared, infrared))


@functools.lru_cache(maxsize=4)
def _wardrobe(seed: int, number: int) -> Wardrobe:
  person = draw_identity(seed, number)
  worn = {
    Part.UPPER: person.upper,
    Part.LOWER: person.lower,
    Part.COAT: person.coat,
  }
  return Wardrobe(
    person,
    {
      part: pattern_tile(garment)
      for part, garment in worn.items()
      if garment.pattern != 'plain'
    },
  )


def _codes(
  canvas: Canvas, tiles: dict[Part, np.ndarray], view: View, pose: Pose
) -> Image.Image:
  """Returns 4 * part + pattern level of every pixel."""
  labels = np.asarray(canvas.labels)
  codes = labels * np.uint8(4)
  turned = view.centre + view.yaw * PERIOD / (2 * math.pi)
  left = round(-turned) % PERIOD
  for part, tile in tiles.items():
    anchor = pose.pelvis if part == Part.LOWER else pose.chest
    top = ANCHOR_ROW - round(view.project(anchor)[1])
    piece = tile[top : top + HEIGHT, left : left + WIDTH]
    codes += (labels == part) * piece
  return Image.fromarray(codes)


def _palette(person: Identity, camera: Camera, obstacle: Material) -> list[int]:
  """Returns 256 gray levels or 768 interleaved colours for the codes."""
  visible = camera.modality == 'visible'
  balance = np.array(white_balance(camera) if visible else (camera.gain,))
  palette = np.zeros((64, 4, len(balance)))
  steps = np.linspace(0, 1, 4)[:, None]
  for part, material in _materials(person, obstacle).items():
    ends = np.array(material.visible if visible else material.infrared)
    first, second = ends.reshape(2, -1)
    palette[part] = (1 - steps) * first + steps * second
  levels = np.clip(235 * palette * balance, 0, 255)
  return levels.astype(np.uint8).ravel().tolist()


def _materials(person: Identity, obstacle: Material) -> dict[Part, Material]:
  return {
    Part.UPPER: person.upper,
    Part.LOWER: person.lower,
    Part.COAT: person.coat,
    Part.SKIN: person.skin,
    Part.HAIR: person.hair,
    Part.SHOES: person.shoes,
    Part.BAG: person.bag,
    Part.STRAP: person.bag,
    Part.HAT: person.hat,
    Part.FACE: _plain((0.25, 0.14, 0.12), 0.35),
    Part.SOCKS: _plain((0.80, 0.80, 0.80), 0.70),
    Part.OBSTACLE: obstacle,
  }


def _plain(colour: tuple[float, float, float], infrared: float) -> Material:
  return Material((colour, colour), (infrared, infrared))


# The shadow darkens the floor without hiding it.
_COVER = [
  0 if k == Part.BACKGROUND else 110 if k == Part.SHADOW else 255
  for k in range(256)
]


@functools.cache
def _folds() -> Image.Image:
  """A tile of soft wrinkles that keeps surfaces from looking flat."""
  rng = np.random.default_rng(2718)
  height, width = HEIGHT + 97, WIDTH + 83
  light = np.full((height, width), 0.92)
  for rows, columns in ((24, 22), (60, 40)):
    grain = rng.standard_normal((rows, columns)).astype(np.float32)
    soft = Image.fromarray(grain).resize(
      (width, height), Image.Resampling.BICUBIC
    )
    light += 0.035 * np.asarray(soft)
  return Image.fromarray(np.clip(255 * light, 0, 255).astype(np.uint8))
