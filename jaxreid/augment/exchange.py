"""MAG: two images of a person, one per modality, exchange a rectangle.

"A New Paradigm for Cross-Modality Person Re-Identification", section 4.3,
"The Modality Augmentation".

Synopsis, in any input pipeline written in JAX, on any aligned images:

  visible, infrared = jax.jit(exchange)(key, visible, infrared)

Row i of both sets shows the same person; afterwards both images of a pair are
"semi-modality" images: each has a rectangle of the other, at the same place,
and together they still hold every pixel once. Labels stay what they were. As
in `geometry` a public draw is followed by a public, deterministic change.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from jaxreid.augment.geometry import Rectangle, inside

# The paper gives no numbers. These are the ranges of random erasing.
PROBABILITY = 0.5
AREA = (0.02, 0.4)
ASPECT = (0.3, 3.3)


def exchange(
  key: Array,
  visible: Shaped[Array, 'n h w c'],
  infrared: Shaped[Array, 'n h w c'],
  probability: float = PROBABILITY,
  area: Sequence[float] = AREA,
  aspect: Sequence[float] = ASPECT,
) -> tuple[Shaped[Array, 'n h w c'], Shaped[Array, 'n h w c']]:
  """Swaps one rectangle in about half of the pairs, before anything else.

  Use it on the raw pixels, before crops and flips, which would put row i of
  the two sets out of step. Infrared images of one channel are repeated to the
  three of the visible ones first. The paper exchanges before it resizes; here
  images come resized, so `aspect` is that of the rectangle in them.

  Args:
    key: a JAX random key.
    visible: images of any dtype.
    infrared: images of the same people, of the same shape and dtype.
    probability: p, chance that a pair exchanges a rectangle at all.
    area: A_l and A_h, least and greatest share of the image, before what
      lies outside is cut off.
    aspect: r_l and r_h, least and greatest height / width. Like the two
      above a number of Python's, static under `jax.jit`.

  Returns:
    Both sets, (visible, infrared), each of the shape and dtype that came in.

  Raises:
    ValueError: if the sets do not align or a number is out of range.
  """
  if visible.shape != infrared.shape or visible.dtype != infrared.dtype:
    raise ValueError(
      'exchange needs two sets [N, H, W, C] of one shape and dtype; got '
      f'{visible.shape} {visible.dtype} and {infrared.shape} {infrared.dtype}'
    )
  n, height, width, _ = visible.shape
  rectangles = draw_exchanges(
    key, n, (height, width), probability, area, aspect
  )
  return swap(visible, infrared, rectangles)


def draw_exchanges(
  key: Array,
  count: int,
  size: tuple[int, int],
  probability: float = PROBABILITY,
  area: Sequence[float] = AREA,
  aspect: Sequence[float] = ASPECT,
) -> Rectangle:
  """Draws the rectangle that each pair of images exchanges.

  With S = H W, A ~ U[A_l, A_h] and r ~ U[r_l, r_h] its height is sqrt(S A r)
  and its width sqrt(S A / r); its centre is uniform over the image, and what
  lies outside is cut off. Unlike the rectangles of random erasing it may
  touch the border, and is never drawn again.

  Args:
    key: a JAX random key.
    count: number of pairs.
    size: height and width of the images in pixels.
    probability: as in `exchange`.
    area: as in `exchange`.
    aspect: as in `exchange`.

  Returns:
    A rectangle per pair, within the image, in whole pixels; height and width
    are 0 where nothing is exchanged.

  Raises:
    ValueError: if a number is out of range.
  """
  check_ranges(probability, area, aspect)
  keys = jax.random.split(key, 4)
  chosen = jax.random.bernoulli(keys[0], probability, (count,))
  a = jax.random.uniform(keys[1], (count,), minval=area[0], maxval=area[1])
  r = jax.random.uniform(keys[2], (count,), minval=aspect[0], maxval=aspect[1])
  centers = jax.random.uniform(keys[3], (2, count))
  pixels = size[0] * size[1] * a
  top, bottom = _ends(centers[0], jnp.sqrt(pixels * r), size[0])
  left, right = _ends(centers[1], jnp.sqrt(pixels / r), size[1])
  height = jnp.where(chosen, bottom - top, 0)
  width = jnp.where(chosen, right - left, 0)
  return Rectangle(top, left, height, width)


def swap(
  visible: Shaped[Array, 'n h w c'],
  infrared: Shaped[Array, 'n h w c'],
  rectangles: Rectangle,
) -> tuple[Shaped[Array, 'n h w c'], Shaped[Array, 'n h w c']]:
  """Exchanges the pixels of both sets within each pair's rectangle."""
  swapped = inside(rectangles, visible.shape[1:3])
  return (
    jnp.where(swapped, infrared, visible),
    jnp.where(swapped, visible, infrared),
  )


def check_ranges(
  probability: float,
  area: Sequence[float],
  aspect: Sequence[float],
):
  """Raises ValueError unless the numbers can be those of an exchange."""
  if not 0 <= probability <= 1:
    raise ValueError(
      f'exchange.probability must be from 0 to 1, not {probability}'
    )
  if len(area) != 2 or not 0 <= area[0] <= area[1] <= 1:
    raise ValueError(
      'exchange.area must be a least and a greatest share from 0 to 1, not '
      f'{area}'
    )
  if len(aspect) != 2 or not 0 < aspect[0] <= aspect[1]:
    raise ValueError(
      'exchange.aspect must be a least and a greatest height / width above 0, '
      f'not {aspect}'
    )


def _ends(
  center: Array, length: Array, size: int
) -> tuple[Shaped[Array, ' n'], Shaped[Array, ' n']]:
  """First pixel and the one after the last; the centre is a share of `size`."""
  start = center * size - length / 2
  ends = (jnp.round(x).astype(jnp.int32) for x in (start, start + length))
  first, last = (jnp.clip(end, 0, size) for end in ends)
  return first, last
