"""From raw pixels to what a network trains on.

Synopsis:

  view = training_view(key, images, padding=10, erasing=0.5)
"""

import jax
from jaxtyping import Array, Float, UInt8

from jaxreid.augment import color, geometry


def training_view(
  key: Array,
  images: UInt8[Array, 'n h w 3'] | Float[Array, 'n h w 3'],
  *,
  padding: int,
  erasing: float = 0.0,
) -> Float[Array, 'n h w 3']:
  """Pad and crop, flip, normalise, erase: the order of AGW and LUPI.

  Two sets of images given the same key get the same crop, flip and rectangle,
  row by row.

  Args:
    key: random key.
    images: raw pixels in 0..255.
    padding: zero pixels around the image before the random crop.
    erasing: probability of a random rectangle per image; 0 for none.

  Returns:
    float32 images, normalised by ImageNet's mean and deviation.
  """
  crop_key, flip_key, erase_key = jax.random.split(key, 3)
  # Flipped first: the same distribution as flipping last, but the compiler
  # then reads a derived image once.
  images = geometry.random_flip(flip_key, images)
  images = geometry.pad_and_crop(crop_key, images, padding)
  images = color.normalize(images)
  if erasing:
    images = geometry.random_erasing(
      erase_key, images, geometry.ERASING_FILL, erasing
    )
  return images
