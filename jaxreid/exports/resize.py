"""Pillow's Lanczos resize as a JAX function of pictures of any size.

Synopsis:

  pixels = resize(images, (288, 144))      # uint8 [B, H, W, 3], rounded

So that an exported program can take pictures as they come: height and width
may be symbolic dimensions of `jax.export`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import PIL
from jax import lax
from jaxtyping import Array, Bool, Float, UInt8

LOBES = 3
# Since this version some pictures are resized along the columns first.
_ORDER_SINCE = 13


def resize(
  images: UInt8[Array, 'b h w 3'],
  image_size: tuple[int, int],
  pillow: str = PIL.__version__,
) -> UInt8[Array, 'b H W 3']:
  """Resizes with antialiasing, as `Image.Resampling.LANCZOS` of Pillow does.

  Pillow's order and rounding are kept: rows and columns one after the other,
  each to whole values from 0 to 255. Its weights are rounded to 22 bits and
  ours to float32, so where a value lies between two whole ones the results can
  differ by 1. A picture that has the size is returned unchanged.

  Args:
    images: [B, h, w, 3]; any of the first three may be symbolic.
    image_size: (height, width) of the result.
    pillow: the version whose order is kept.

  Returns:
    [B, height, width, 3].
  """
  height, width = image_size
  # TPUs and GPUs would round the factors to fewer bits.
  exact = lax.Precision.HIGHEST

  def rows(x: Array) -> Array:
    weights = lanczos_weights(images.shape[2], width)
    return _whole(jnp.einsum('bhwc,wo->bhoc', x, weights, precision=exact))

  def columns(x: Array) -> Array:
    weights = lanczos_weights(images.shape[1], height)
    return _whole(jnp.einsum('bhwc,ho->bowc', x, weights, precision=exact))

  x = images.astype(jnp.float32)
  resized = columns(rows(x))
  if int(pillow.split('.')[0]) >= _ORDER_SINCE:
    # XLA knows the shapes when it compiles, and drops what is not chosen.
    first = _columns_first(images.shape[1], images.shape[2], image_size)
    resized = jnp.where(first, rows(columns(x)), resized)
  return resized.astype(jnp.uint8)


def _columns_first(
  h: Any, w: Any, image_size: tuple[int, int]
) -> Bool[Array, '']:
  """Whether Pillow 13 begins with the columns, as found by trying it."""
  fewer_rows = jnp.asarray(h, jnp.int32) - image_size[0]
  fewer_columns = jnp.asarray(w, jnp.int32) - image_size[1]
  return (fewer_rows > 0) & (fewer_rows > 2 * fewer_columns)


def lanczos_weights(size: Any, wanted: int) -> Float[Array, 'size wanted']:
  """What each old pixel of a line adds to each new one.

  sinc(t) sinc(t / 3) for |t| < 3, t the distance of the pixels' centres in
  units of the coarser of both grids, normalised to a sum of 1.

  Args:
    size: pixels of the line; may be symbolic.
    wanted: pixels of the new line.
  """
  old = lax.broadcasted_iota(jnp.int32, (size, wanted), 0)
  new = lax.broadcasted_iota(jnp.int32, (size, wanted), 1)
  length = jnp.asarray(size, jnp.int32)
  # In whole numbers, since float32 does not place pixel 3,000.5 well.
  distance = (2 * old + 1) * wanted - (2 * new + 1) * length
  unit = 2 * jnp.maximum(length, wanted)
  t = distance.astype(jnp.float32) / unit.astype(jnp.float32)
  weights = jnp.where(
    jnp.abs(t) < LOBES, jnp.sinc(t) * jnp.sinc(t / LOBES), jnp.float32(0)
  )
  return weights / weights.sum(0, keepdims=True)


def _whole(x: jax.Array) -> jax.Array:
  return jnp.clip(jnp.floor(x + 0.5), 0, 255)
