"""Six cameras laid out as in SYSU-MM01, and what each does to light.

Cameras 1, 2, 4 and 5 are visible, 3 and 6 infrared; locations are 1, 2, 2, 4,
5, 6, so cameras 2 and 3 look at one scene.

    camera = CAMERAS[3]                   by its 1-based number
    image = expose(picture, camera, rng)
"""

import dataclasses
import functools
import io

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from tfds_builders.synthetic_reid.canvas import HEIGHT, WIDTH
from tfds_builders.synthetic_reid.difficulty import DIFFICULTY


@dataclasses.dataclass(frozen=True)
class Camera:
  """A camera's place, its light and its sensor.

  Attributes:
    number: 1-based.
    modality: 'visible' or 'infrared'.
    location: what it looks at; equal locations share a scene.
    gain: brightness, 1 is neutral.
    warmth: colour temperature, -1 bluish to 1 reddish, times the tint spread.
    green: the second axis of white balance, in the same unit.
    gamma: exponent of the tone curve.
    haze: share of white that lifts the blacks.
    blur: radius of the lens blur (a box) in pixels.
    noise: standard deviation of the noise in gray levels.
    quality: JPEG quality.
    pitch: how far it looks down, in radians.
    vignette: darkening of the corners of an infrared lamp's light.
    lamp: side that the light comes from, -1 left to 1 right.
  """

  number: int
  modality: str
  location: int
  gain: float
  warmth: float
  green: float
  gamma: float
  haze: float
  blur: float
  noise: float
  quality: int
  pitch: float
  vignette: float
  lamp: float

  @property
  def indoor(self) -> bool:
    """Cameras 1 to 3 hang in the room and the office."""
    return self.location <= 2


_LOW, _HIGH = DIFFICULTY.camera_gain


def _gain(share: float) -> float:
  return _LOW + share * (_HIGH - _LOW)


CAMERAS = {
  camera.number: camera
  for camera in (
    Camera(1, 'visible', 1, _gain(0.55), 0.7, -0.2, 0.95, 0.02, 0.5, 5.0, 82,
           0.16, 0.0, -0.7),
    Camera(2, 'visible', 2, _gain(0.15), -0.3, 0.4, 1.00, 0.00, 0.7, 8.0, 76,
           0.24, 0.0, 0.5),
    Camera(3, 'infrared', 2, 1.15, 0.0, 0.0, 0.75, 0.04, 0.6, 9.0, 78,
           0.24, 0.60, 0.0),
    Camera(4, 'visible', 4, _gain(0.75), -0.8, 0.0, 1.00, 0.06, 0.9, 6.0, 72,
           0.10, 0.0, 0.9),
    Camera(5, 'visible', 5, _gain(1.0), 0.2, -0.5, 1.10, 0.00, 0.6, 4.0, 80,
           0.08, 0.0, -0.9),
    Camera(6, 'infrared', 6, 1.10, 0.0, 0.0, 0.85, 0.02, 0.9, 12.0, 72,
           0.14, 0.90, 0.0),
  )
}  # fmt: skip


def white_balance(camera: Camera) -> tuple[float, float, float]:
  """Returns the factors on red, green and blue, gain included."""
  tint = DIFFICULTY.camera_tint
  red = 1 + tint * camera.warmth - tint * camera.green / 2
  green = 1 + tint * camera.green
  blue = 1 - tint * camera.warmth - tint * camera.green / 2
  return camera.gain * red, camera.gain * green, camera.gain * blue


def expose(
  picture: Image.Image, camera: Camera, rng: np.random.Generator
) -> bytes:
  """Returns the picture ('RGB' or 'L') as this camera's JPEG.

  Lens, sensor and compression: fewer pixels for people further away, blur,
  vignetting, tone curve, noise. An infrared picture comes out with three
  equal channels.
  """
  share, gain, dx, dy, vx, vy = rng.random(6).tolist()
  low, high = DIFFICULTY.resolution
  share = low + share * (high - low)
  small = (round(WIDTH * share), round(HEIGHT * share))
  picture = picture.resize(small, Image.Resampling.BOX)
  picture = picture.filter(ImageFilter.BoxBlur(camera.blur * share))
  picture = picture.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
  if camera.modality == 'infrared':
    picture = ImageChops.multiply(picture, window(_vignette(camera), vx, vy))
  low, high = DIFFICULTY.frame_gain
  curve = _curve(camera, low + gain * (high - low))
  picture = picture.point(curve * len(picture.getbands()))
  noise = window(_noise(camera), dx, dy)
  picture = ImageChops.add(picture, noise, 1, -128)
  if picture.mode == 'L':
    picture = Image.merge('RGB', (picture,) * 3)
  buffer = io.BytesIO()
  picture.save(buffer, 'JPEG', quality=camera.quality)
  return buffer.getvalue()


def window(tile: Image.Image, x: float, y: float) -> Image.Image:
  """Returns the crop of a tile at the share (x, y) of its possible places."""
  left = int(x * (tile.width - WIDTH))
  top = int(y * (tile.height - HEIGHT))
  return tile.crop((left, top, left + WIDTH, top + HEIGHT))


def _curve(camera: Camera, gain: float) -> list[int]:
  levels = np.arange(256) / 255.0
  levels = gain * levels**camera.gamma
  levels = camera.haze + (1 - camera.haze) * levels
  return np.clip(255 * levels + 0.5, 0, 255).astype(np.uint8).tolist()


@functools.cache
def _noise(camera: Camera) -> Image.Image:
  """A tile of sensor noise around 128, coarser than one pixel."""
  rng = np.random.default_rng((811, camera.number))
  bands = 3 if camera.modality == 'visible' else 1
  shape = (HEIGHT + 61, WIDTH + 53, bands)
  fine = rng.standard_normal(shape)
  if bands == 3:  # brightness noise outweighs colour noise
    fine = 0.8 * fine[:, :, :1] + 0.5 * fine
  fine = fine + 0.7 * np.roll(fine, 1, axis=1)
  fine *= camera.noise * DIFFICULTY.noise / fine.std()
  tile = np.clip(fine + 128.5, 0, 255).astype(np.uint8)
  return Image.fromarray(tile if bands == 3 else tile[:, :, 0])


@functools.cache
def _vignette(camera: Camera) -> Image.Image:
  """Light of an infrared lamp: bright in the middle, dark in the corners."""
  height, width = HEIGHT + 90, WIDTH + 70
  y, x = np.mgrid[:height, :width]
  away = np.hypot((y / height - 0.5) * 1.1, (x / width - 0.5) * 0.9)
  light = 1.0 / (1.0 + camera.vignette * (2.2 * away) ** 2)
  return Image.fromarray((255 * light).astype(np.uint8))
