"""Pillow's Lanczos resize as a JAX function of pictures of any size.

Synopsis:

  pixels = resize(images, (288, 144))      # uint8 [B, H, W, 3], rounded

So that an exported program can take pictures as they come: height and width
may be symbolic dimensions of `jax.export`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt8

LOBES = 3


def resize(
  images: UInt8[Array, 'b h w 3'], image_size: tuple[int, int]
) -> UInt8[Array, 'b H W 3']:
  """Resizes with antialiasing, as `Image.Resampling.LANCZOS` of Pillow does.

  Pillow's order and rounding are kept: along the rows first, then along the
  columns, each to whole values from 0 to 255. Its weights are rounded to 22
  bits and ours to float32, so where a value lies between two whole ones the
  results can differ by 1. A picture that has the size is returned unchanged.

  Args:
    images: [B, h, w, 3]; any of the first three may be symbolic.
    image_size: (height, width) of the result.

  Returns:
    [B, height, width, 3].
  """
  height, width = image_size
  x = images.astype(jnp.float32)
  # TPUs and GPUs would round the factors to fewer bits.
  exact = lax.Precision.HIGHEST
  rows = lanczos_weights(images.shape[2], width)
  x = _whole(jnp.einsum('bhwc,wo->bhoc', x, rows, precision=exact))
  columns = lanczos_weights(images.shape[1], height)
  x = _whole(jnp.einsum('bhwc,ho->bowc', x, columns, precision=exact))
  return x.astype(jnp.uint8)


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
