"""Pictures of what a method makes of images.

Synopsis:

  drawn = draw(setup, state.variables, batch_size=256)
  drawn['examples'], drawn['channels']     # uint8 [H, W, 3]
  write(workdir, step, drawn)              # PNG files and TensorBoard

For XIV these are figures 4 and 3 of the paper: V, X and I side by side, and
histograms of each training image's mean R, G and B, for V and for X.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8
from PIL import Image, ImageDraw

from jaxreid import metric_writer, sharding
from jaxreid.augment.color import denormalize
from jaxreid.data.source import INFRARED, VISIBLE
from jaxreid.evaluation.embedding import embed_all
from jaxreid.experiment import Setup

FOLDER = 'pictures'
PEOPLE = 8
BINS = 64
_GAP = 4  # pixels between images
_INK = (40, 40, 40)


def draw(
  setup: Setup, variables: Any, batch_size: int
) -> dict[str, UInt8[np.ndarray, 'h w 3']]:
  """Both pictures, of the training images; {} if the method makes none.

  Args:
    setup: of the run.
    variables: of the trained method.
    batch_size: images at a time; rounded up to what the devices can share.
  """
  if setup.method.views is None:
    return {}
  return {
    'examples': side_by_side(_examples(setup, variables)),
    'channels': histograms(_channel_means(setup, variables, batch_size)),
  }


def draw_training(setup: Setup) -> dict[str, UInt8[np.ndarray, 'h w 3']]:
  """What the network is trained on: images of a few people, augmented.

  Crops, erased and exchanged rectangles, gray mixtures: whatever the method's
  `augment` makes of them, by the key of the run.
  """
  rows = _rows(setup)
  batch = {
    name: jnp.asarray(setup.train.images[mine]) for name, mine in rows.items()
  }
  batch['label'] = jnp.arange(len(rows['visible']), dtype=jnp.int32)
  # It runs once: compiling it well takes longer than that.
  cpu = setup.mesh.devices.flat[0].platform == 'cpu'
  options = {'xla_backend_optimization_level': 0} if cpu else {}
  augment = jax.jit(setup.method.augment, compiler_options=options)
  views = augment(sharding.local_copy(setup.key), batch)
  names = sorted(views, key=lambda n: (n == 'infrared', n != 'visible', n))
  images = {
    name: np.asarray(denormalize(views[name]))
    for name in names
    if views[name].ndim == 4
  }
  return {'training': side_by_side(images)} if images else {}


def write(
  workdir: pathlib.Path,
  step: int,
  drawn: Mapping[str, UInt8[np.ndarray, 'h w 3']],
):
  """Writes WORKDIR/pictures/*.png, and the same to TensorBoard, if any."""
  if not drawn or jax.process_index():
    return
  folder = workdir / FOLDER
  folder.mkdir(exist_ok=True)
  for name, picture in drawn.items():
    new = folder / f'.{name}.png'
    Image.fromarray(picture).save(new)
    os.replace(new, folder / f'{name}.png')
  metric_writer.write_pictures(workdir, step, drawn)


def _examples(setup: Setup, variables: Any) -> dict[str, np.ndarray]:
  """Images of a few people: visible ones, what is made of them, infrared."""
  images = {
    m: np.asarray(setup.train.images[r]) for m, r in _rows(setup).items()
  }
  # Each process draws by itself.
  variables = sharding.local_copy(variables)
  sets = {}
  for name in images:
    sets[name] = images[name]
    made = _views(setup, variables, jnp.asarray(images[name]), name)
    sets |= {what: np.asarray(pixels) for what, pixels in made.items()}
  return sets


def _rows(setup: Setup) -> dict[str, np.ndarray]:
  """The first image of a few people in either modality."""
  records = setup.train.records
  names = setup.sampler.names
  chosen = np.linspace(0, len(names) - 1, PEOPLE).round().astype(int)
  return {
    modality: np.array(
      [
        np.flatnonzero(
          (records.identity == names[i]) & (records.modality == code)
        )[0]
        for i in dict.fromkeys(chosen.tolist())
      ]
    )
    for modality, code in (('visible', VISIBLE), ('infrared', INFRARED))
  }


def _views(
  setup: Setup, variables: Any, images: Array, modality: str
) -> dict[str, Array]:
  views = setup.method.views
  assert views is not None
  return views(variables, images, modality)


def _channel_means(
  setup: Setup, variables: Any, batch_size: int
) -> dict[str, Float[np.ndarray, 'n 3']]:
  """Mean R, G and B of every visible training image and what is made of it."""
  names: list[str] = []

  def means(variables: Any, images: Array) -> Array:
    sets = {'visible': images.astype(jnp.float32)}
    sets |= _views(setup, variables, images, 'visible')
    names[:] = sets
    return jnp.stack([x.mean((1, 2)) for x in sets.values()], axis=1)

  found = embed_all(
    jax.tree_util.Partial(means, variables),
    setup.train.images,
    batch_size + -batch_size % setup.mesh.size,
    sharding.batch_sharding(setup.mesh),
    np.flatnonzero(setup.train.records.modality == VISIBLE),
    'draw visible',
  )
  return {name: found[:, i] for i, name in enumerate(names)}


def side_by_side(
  rows: Mapping[str, Shaped[np.ndarray, 'n h w 3']],
) -> UInt8[np.ndarray, 'H W 3']:
  """One row of images per set, under its name; column i is image i of all.

  Args:
    rows: name -> [N, H, W, 3], on the scale 0..255, clipped here.
  """
  strips, titles, top = [], [], 0
  for name, images in rows.items():
    pixels = np.clip(images, 0, 255).round().astype(np.uint8)
    scale = max(1, round(160 / pixels.shape[1]))
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    padded = np.pad(
      pixels, ((0, 0), (_GAP + 14, 0), (_GAP, 0), (0, 0)), constant_values=255
    )
    titles.append(((_GAP, top + 2), name))
    strips.append(np.concatenate(padded, axis=1))
    top += len(strips[-1])
  return _write_on(np.concatenate(strips), titles)


def histograms(
  means: Mapping[str, Float[np.ndarray, 'n 3']],
) -> UInt8[np.ndarray, 'H W 3']:
  """Side by side for each set: how the images' mean R, G and B are spread.

  Args:
    means: name -> [N, 3] on the scale 0..255; the axis grows to hold all.
  """
  low = min(0.0, *(float(values.min()) for values in means.values()))
  high = max(255.0, *(float(values.max()) for values in means.values()))
  counts = {
    name: np.stack(
      [np.histogram(v, BINS, (low, high))[0] for v in values.T], axis=1
    )
    for name, values in means.items()
  }
  panels, titles, left = [], [], 0
  for name, count in counts.items():
    panels.append(_panel(count / max(count.max(), 1)))
    size = panels[-1].shape
    bottom = size[0] - 16
    titles.append(((left + size[1] // 2 - 20, 4), name))
    titles.append(((left + 12, bottom), f'{low:.0f}'))
    titles.append(((left + size[1] - 36, bottom), f'{high:.0f}'))
    titles.append(((left + size[1] // 2 - 40, bottom), 'mean of channel'))
    left += size[1]
  return _write_on(np.concatenate(panels, axis=1), titles)


def _panel(heights: Float[np.ndarray, 'b 3']) -> UInt8[np.ndarray, 'H W 3']:
  """Overlaid bars of the three channels, half transparent."""
  height, width = 200, 6
  bars = heights.repeat(width, axis=0)
  area = np.full((height, len(bars), 3), 255.0)
  level = np.arange(height, 0, -1)[:, None] / height
  for channel, color in enumerate(
    ((220, 40, 40), (40, 160, 40), (50, 70, 220))
  ):
    filled = level <= bars[:, channel][None, :]
    area[filled] = 0.5 * area[filled] + 0.5 * np.array(color)
  area[-1] = _INK
  sides = ((20, 20), (12, 12), (0, 0))
  return np.pad(area, sides, constant_values=255).astype(np.uint8)


def _write_on(
  pixels: UInt8[np.ndarray, 'H W 3'],
  titles: list[tuple[tuple[int, int], str]],
) -> UInt8[np.ndarray, 'H W 3']:
  picture = Image.fromarray(pixels)
  pen = ImageDraw.Draw(picture)
  for place, text in titles:
    pen.text(place, text, fill=_INK)
  return np.asarray(picture)
