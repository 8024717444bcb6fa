"""Crops, flips and rectangles against plain loops, and their statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxreid.augment import geometry

N, H, W = 5, 9, 6


def pixels(n=N, h=H, w=W):
  values = np.random.default_rng(3).integers(1, 256, (n, h, w, 3))
  return values.astype(np.uint8)


def crop_oracle(images, offsets, padding):
  out = np.zeros_like(images)
  n, height, width, _ = images.shape
  for i in range(n):
    for row in range(height):
      for column in range(width):
        y = row + int(offsets[i][0]) - padding
        x = column + int(offsets[i][1]) - padding
        if 0 <= y < height and 0 <= x < width:
          out[i, row, column] = images[i, y, x]
  return out


def erase_oracle(images, rectangles, fill):
  out = np.array(images)
  for i, (top, left, height, width) in enumerate(
    zip(*map(np.asarray, rectangles), strict=True)
  ):
    for row in range(top, top + height):
      for column in range(left, left + width):
        out[i, row, column] = fill
  return out


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_crop_agrees_with_loops(dtype):
  images = pixels().astype(dtype)
  offsets = np.array([[0, 0], [4, 1], [2, 2], [3, 4], [1, 3]], np.int32)
  got = geometry.crop(jnp.asarray(images), jnp.asarray(offsets), 2)
  assert got.dtype == dtype
  np.testing.assert_array_equal(got, crop_oracle(images, offsets, 2))
  np.testing.assert_array_equal(got[2], images[2])


def test_pad_and_crop_is_its_draw_followed_by_crop():
  images, key = pixels(), jax.random.key(8)
  offsets = np.asarray(geometry.draw_offsets(key, N, 3))
  got = geometry.pad_and_crop(key, jnp.asarray(images), 3)
  np.testing.assert_array_equal(got, crop_oracle(images, offsets, 3))


def test_offsets_are_uniform_over_the_whole_range():
  offsets = np.asarray(geometry.draw_offsets(jax.random.key(0), 7000, 3))
  for axis in (0, 1):
    counts = np.bincount(offsets[:, axis], minlength=7)
    assert counts.shape == (7,)
    assert (abs(counts - 1000) < 150).all()
  assert abs(np.corrcoef(offsets.T)[0, 1]) < 0.05


def test_no_padding_changes_nothing():
  images = jnp.asarray(pixels())
  got = geometry.pad_and_crop(jax.random.key(1), images, 0)
  np.testing.assert_array_equal(got, images)


def test_flip_mirrors_marked_images_only():
  images = pixels()
  got = geometry.flip(
    jnp.asarray(images), jnp.array([True, False, False, True, False])
  )
  for i in range(N):
    for column in range(W):
      source = W - 1 - column if i in (0, 3) else column
      np.testing.assert_array_equal(got[i, :, column], images[i, :, source])


@pytest.mark.parametrize('probability', [0.0, 0.3, 0.5, 1.0])
def test_flip_rate(probability):
  flips = geometry.draw_flips(jax.random.key(5), 4000, probability)
  assert abs(float(flips.mean()) - probability) < 0.03


def test_random_flip_is_its_draw_followed_by_flip():
  images, key = jnp.asarray(pixels()), jax.random.key(2)
  np.testing.assert_array_equal(
    geometry.random_flip(key, images, 0.4),
    geometry.flip(images, geometry.draw_flips(key, N, 0.4)),
  )


def test_erase_agrees_with_loops():
  images = pixels().astype(np.float32)
  rectangles = geometry.Rectangle(
    *(jnp.array(v) for v in ([0, 2, 3, 0, 8], [1, 0, 2, 0, 5])),
    *(jnp.array(v) for v in ([4, 0, 6, 8, 1], [2, 0, 4, 5, 1])),
  )
  fill = (0.1, 0.2, 0.3)
  got = geometry.erase(jnp.asarray(images), rectangles, fill)
  np.testing.assert_array_equal(got, erase_oracle(images, rectangles, fill))


def test_random_erasing_is_its_draw_followed_by_erase():
  images, key = pixels().astype(np.float32), jax.random.key(4)
  rectangles = geometry.draw_rectangles(key, N, (H, W), 0.8)
  got = geometry.random_erasing(
    key, jnp.asarray(images), geometry.ERASING_FILL, 0.8
  )
  np.testing.assert_array_equal(
    got, erase_oracle(images, rectangles, geometry.ERASING_FILL)
  )
  assert not np.array_equal(got, images)


def reference_rectangles(count, size, area, aspect):
  """The rejection loop written out, with its own random numbers."""
  rng = np.random.default_rng(0)
  shapes = []
  for _ in range(count):
    for _ in range(100):
      pixels_ = rng.uniform(*area) * size[0] * size[1]
      ratio = rng.uniform(*aspect)
      height = round((pixels_ * ratio) ** 0.5)
      width = round((pixels_ / ratio) ** 0.5)
      if height < size[0] and width < size[1]:
        shapes.append((height, width))
        break
  return np.array(shapes)


def test_rectangles_are_distributed_as_by_the_rejection_loop():
  size, area, aspect = (288, 144), (0.02, 0.4), (0.3, 1 / 0.3)
  drawn = geometry.draw_rectangles(jax.random.key(6), 4000, size, 0.5)
  top, left, height, width = map(np.asarray, drawn)
  erased = height > 0
  assert abs(erased.mean() - 0.5) < 0.03
  np.testing.assert_array_equal(erased, width > 0)
  share = height[erased] * width[erased] / (size[0] * size[1])
  assert 0.019 < share.min() < 0.03
  assert 0.35 < share.max() < 0.404
  ratio = height[erased] / width[erased]
  assert ratio.min() > 0.28 and ratio.max() < 3.5
  expected = reference_rectangles(4000, size, area, aspect)
  for got, want in (
    (height[erased], expected[:, 0]),
    (width[erased], expected[:, 1]),
  ):
    quantiles = [0.1, 0.25, 0.5, 0.75, 0.9]
    np.testing.assert_allclose(
      np.quantile(got, quantiles), np.quantile(want, quantiles), rtol=0.08
    )
  # Inside the image, and anywhere there.
  for start, length, whole in ((top, height, 288), (left, width, 144)):
    room = whole - length[erased]
    place = start[erased] / room
    assert place.min() >= 0 and place.max() <= 1
    assert abs(place.mean() - 0.5) < 0.03
    assert abs(place.std() - 12**-0.5) < 0.03
    assert (start[erased] == room).any()


def test_a_rectangle_that_never_fits_is_left_out():
  drawn = geometry.draw_rectangles(
    jax.random.key(0), N, (H, W), 1.0, area=(2.0, 3.0)
  )
  assert not np.asarray(drawn.height).any()
  assert not np.asarray(drawn.width).any()


def augment(key, images):
  crop_key, flip_key, erase_key = jax.random.split(key, 3)
  images = geometry.pad_and_crop(crop_key, images, 2)
  images = geometry.random_flip(flip_key, images).astype(jnp.float32)
  return geometry.random_erasing(erase_key, images, geometry.ERASING_FILL)


def test_jit_equals_eager_and_repeats():
  images, key = jnp.asarray(pixels()), jax.random.key(9)
  eager = augment(key, images)
  np.testing.assert_array_equal(jax.jit(augment)(key, images), eager)
  np.testing.assert_array_equal(augment(key, images), eager)
  assert not np.array_equal(augment(jax.random.key(10), images), eager)


def test_one_key_gives_two_sets_the_same_geometry():
  images = pixels(n=16)
  key, another = jax.random.split(jax.random.key(12))

  def move(key, images):
    return geometry.random_flip(key, geometry.pad_and_crop(key, images, 4))

  index = np.arange(images.size, dtype=np.int32).reshape(images.shape) + 1
  place = np.asarray(move(key, jnp.asarray(index)))
  want = np.append(0, images.ravel())[place]
  np.testing.assert_array_equal(move(key, jnp.asarray(images)), want)
  assert not np.array_equal(move(another, jnp.asarray(images)), want)


def test_images_spread_over_devices_stay_there():
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  rows = NamedSharding(mesh, PartitionSpec('data'))
  images, key = jnp.asarray(pixels(n=16)), jax.random.key(7)
  step = jax.jit(augment, in_shardings=(None, rows), out_shardings=rows)
  compiled = step.lower(key, images).compile().as_text()
  for collective in ('all-gather', 'all-to-all', 'all-reduce'):
    assert collective not in compiled
  np.testing.assert_array_equal(
    step(key, jax.device_put(images, rows)), augment(key, images)
  )
