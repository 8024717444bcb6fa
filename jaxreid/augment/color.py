"""Gray mixtures of R, G and B, and the normalisation of pixels.

Synopsis:

  intermediate = random_gray(key, visible)      # LUPI, Eq. 4
  images = normalize(intermediate)

Gray images keep three equal channels and the dtype that came in, so that raw
uint8 pixels stay small until `normalize` makes floats of them. Values lie in
0..255 before it, whatever the dtype.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of R, G, B over ImageNet, for pixels scaled to 0..1."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of R, G, B over ImageNet, for pixels scaled to 0..1."""

GRAY_WEIGHTS = (0.299, 0.587, 0.114)
"""Luminance of R, G, B (ITU-R BT.601)."""


def normalize(
  images: Shaped[Array, 'n h w 3'],
  mean: tuple[float, float, float] = IMAGENET_MEAN,
  std: tuple[float, float, float] = IMAGENET_STD,
) -> Float[Array, 'n h w 3']:
  """Turns pixels of 0..255 into (pixel / 255 - mean) / std.

  Args:
    images: uint8 or float pixels, 0..255.
    mean: per channel, for pixels scaled to 0..1.
    std: per channel, for pixels scaled to 0..1.

  Returns:
    float32 (or the float type that came in), about -2.2 to 2.7.
  """
  dtype = jnp.promote_types(images.dtype, jnp.float32)
  offset = 255 * jnp.asarray(mean, dtype)[None, None, None, :]
  scale = 1 / (255 * jnp.asarray(std, dtype))[None, None, None, :]
  return (images.astype(dtype) - offset) * scale


def draw_gray_weights(key: Array, count: int) -> Float[Array, 'n 3']:
  """Draws the weights of R, G and B for `count` images.

  Three U(0, 1) over their sum, as in LUPI's released code. This is
  not a Dirichlet draw: the middle of the triangle is favoured.
  """
  # Never all zero, so the sum is safe to divide by.
  smallest = jnp.finfo(jnp.float32).tiny
  draws = jnp.maximum(jax.random.uniform(key, (count, 3)), smallest)
  return draws / draws.sum(axis=1, keepdims=True)


def mix_channels(
  images: Shaped[Array, 'n h w 3'], weights: Float[Array, 'n 3']
) -> Shaped[Array, 'n h w 3']:
  """Mixes R, G and B of each image with its own weights, in 3 channels.

  Args:
    images: uint8 or float pixels, 0..255.
    weights: per image, sum 1.

  Returns:
    Pixels rounded down to whole values, the same in all channels, of the
    dtype that came in.
  """
  w = weights[:, None, None, :]
  pixels = images.astype(weights.dtype)
  # Written out: a dot product may run in bfloat16 on an accelerator.
  mixed = (
    w[..., 0] * pixels[..., 0]
    + w[..., 1] * pixels[..., 1]
    + w[..., 2] * pixels[..., 2]
  )
  # The nudge keeps a pixel with R = G = B at its value despite rounding.
  gray = jnp.floor(mixed + 1e-3).astype(images.dtype)
  return jnp.broadcast_to(gray[..., None], images.shape)


def random_gray(
  key: Array, images: Shaped[Array, 'n h w 3']
) -> Shaped[Array, 'n h w 3']:
  """LUPI's intermediate image: a random convex mix of R, G and B (Eq. 4).

  One triple of weights per image, on raw pixels, before the image's own crop,
  flip and erasing. The released code truncates to whole values, and so do we.

  Args:
    key: a JAX random key.
    images: visible images, uint8 or float, 0..255.

  Returns:
    Gray images in 3 equal channels, 0..255, of the dtype that came in.
  """
  return mix_channels(images, draw_gray_weights(key, images.shape[0]))


def fixed_gray(images: Shaped[Array, 'n h w 3']) -> Shaped[Array, 'n h w 3']:
  """The luminance 0.299 R + 0.587 G + 0.114 B, rounded down, in 3 channels.

  LUPI's "gray" rows. It is also the gray version of a test image.

  Example:
    >>> fixed_gray(jnp.array([[[[255, 0, 0]]]], jnp.uint8)).tolist()
    [[[[76, 76, 76]]]]
  """
  weights = jnp.asarray(GRAY_WEIGHTS, jnp.float32)[None, :]
  return mix_channels(images, jnp.broadcast_to(weights, (images.shape[0], 3)))


def denormalize(
  images: Float[Array, 'n h w 3'],
  mean: tuple[float, float, float] = IMAGENET_MEAN,
  std: tuple[float, float, float] = IMAGENET_STD,
) -> Float[Array, 'n h w 3']:
  """Undoes `normalize`: pixels on the scale 0..255.

  Args:
    images: normalised; any values.
    mean: as in `normalize`.
    std: as in `normalize`.

  Returns:
    Pixels of the same float type, neither rounded nor clipped.
  """
  offset = 255 * jnp.asarray(mean, images.dtype)[None, None, None, :]
  scale = 255 * jnp.asarray(std, images.dtype)[None, None, None, :]
  return images * scale + offset


def one_channel(
  images: Float[Array, 'n h w 3'], kind: str
) -> Float[Array, 'n h w 3']:
  """One of the fixed maps from colour to a single channel, in 3 channels.

  * 'mean': (R + G + B) / 3
  * 'gray': 0.299 R + 0.587 G + 0.114 B
  * 'value': max(R, G, B), the V of HSV
  * 'luma': 16 + 219 gray / 255, the Y of YCbCr in the studio range of
    ITU-R BT.601. It is gray with less contrast, and carries nothing else.

  Args:
    images: float pixels on the scale 0..255.
    kind: one of the names above.

  Returns:
    Pixels of the same type on the same scale, not rounded.

  Raises:
    ValueError: on another kind, naming all.
  """
  red, green, blue = (images[..., c] for c in range(3))
  match kind:
    case 'mean':
      channel = (red + green + blue) / 3
    case 'value':
      channel = jnp.max(images, axis=-1)
    case 'gray' | 'luma':
      # Written out: a dot product may run in bfloat16 on an accelerator.
      w = GRAY_WEIGHTS
      channel = w[0] * red + w[1] * green + w[2] * blue
      if kind == 'luma':
        channel = 16 + 219 / 255 * channel
    case _:
      raise ValueError(
        "a channel is 'mean', 'gray', 'value' or 'luma', not " + repr(kind)
      )
  return jnp.broadcast_to(channel[..., None], images.shape)
