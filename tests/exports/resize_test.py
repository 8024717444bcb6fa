"""Pictures are resized as Pillow resizes them, whatever their size."""

import jax
import numpy as np
import pytest
from jax import export
from numpy.testing import assert_array_equal
from PIL import Image

from jaxreid.exports.resize import resize

SIZE = (24, 12)


@pytest.fixture(scope='module')
def any_size():
  """One program for all sizes, as a file holds it."""
  sizes = export.symbolic_shape('b, h, w')
  shape = jax.ShapeDtypeStruct((*sizes, 3), np.uint8)
  return export.export(jax.jit(lambda x: resize(x, SIZE)))(shape).call


def pillow(images):
  height, width = SIZE
  return np.stack(
    [
      Image.fromarray(x).resize((width, height), Image.Resampling.LANCZOS)
      for x in images
    ]
  )


@pytest.mark.parametrize(
  'size',
  # The last two lie beyond and on the border where Pillow's order changes.
  [(24, 40), (31, 12), (7, 5), (240, 121), (9, 400), (47, 23), (46, 23)],
)
def test_equals_pillow(any_size, size):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (2, *size, 3), np.uint8)
  # Sharp edges, where the filter overshoots and values are cut off.
  images[1] = 255 * (images[1] > 128)
  found = np.asarray(any_size(images))
  assert found.dtype == np.uint8
  difference = np.abs(found.astype(int) - pillow(images))
  assert difference.max() <= 1
  assert (difference > 0).mean() < 0.01


def test_a_picture_of_the_size_stays_as_it_is(any_size):
  images = np.random.default_rng(1).integers(0, 256, (3, *SIZE, 3), np.uint8)
  assert_array_equal(any_size(images), images)


def test_large_pictures_are_not_shifted(any_size):
  # A pixel's place needs more digits than float32 has if taken as it is.
  x = np.arange(3000) // 250 % 2 * 255
  images = np.broadcast_to(x[None, None, :, None], (1, 24, 3000, 3))
  images = images.astype(np.uint8)
  found = np.asarray(any_size(images)).astype(int)
  assert np.abs(found - pillow(images)).max() <= 1
