"""A training view is flip, crop, normalisation and erasing, in this order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxreid.augment.view import training_view

KEY = jax.random.key(11)
MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])
FILL = np.array([0.4914, 0.4822, 0.4465])


def _images(n=24, seed=0):
  pixels = np.random.default_rng(seed).integers(1, 256, (n, 12, 8, 3))
  return jnp.asarray(pixels, jnp.uint8)


@functools.partial(jax.jit, static_argnames=('padding', 'erasing'))
def _view(key, images, padding=0, erasing=0.0):
  return training_view(key, images, padding=padding, erasing=erasing)


def _normal(pixels):
  return (np.asarray(pixels) / 255 - MEAN) / STD


def _found(seen, image, padding):
  """Every (flipped, top, left) whose crop of the padded image is `seen`."""
  height, width, _ = image.shape
  places = []
  for flipped in (False, True):
    source = np.asarray(image[:, ::-1] if flipped else image)
    edge = (padding, padding)
    padded = _normal(np.pad(source, (edge, edge, (0, 0))))
    for top in range(2 * padding + 1):
      for left in range(2 * padding + 1):
        crop = padded[top : top + height, left : left + width]
        if np.allclose(seen, crop, atol=1e-4):
          places.append((flipped, top, left))
  return places


def test_a_view_is_a_normalised_crop_of_the_image_or_its_mirror():
  images = _images()
  views = np.asarray(_view(KEY, images, padding=2))
  assert views.dtype == np.float32
  assert views.shape == images.shape
  places = [
    _found(view, np.asarray(image), 2)
    for view, image in zip(views, images, strict=True)
  ]
  assert all(len(place) == 1 for place in places)
  flips, tops, lefts = zip(*(place[0] for place in places), strict=True)
  assert 0 < sum(flips) < len(flips)
  assert len(set(tops)) > 2
  assert len(set(lefts)) > 2
  # Of both places every combination of draws: they are independent.
  assert len(set(zip(tops, lefts, strict=True))) > 5


def test_without_padding_and_erasing_only_the_mirror_is_left():
  images = _images()
  for view, image in zip(_view(KEY, images), images, strict=True):
    assert len(_found(view, np.asarray(image), 0)) == 1


def test_the_border_is_black_not_gray():
  # Padding comes before normalisation.
  white = jnp.full((16, 12, 8, 3), 255, jnp.uint8)
  views = np.asarray(_view(KEY, white, padding=4))
  values = {round(float(x), 3) for x in views[..., 0].ravel()}
  black, light = (-MEAN / STD)[0], ((1 - MEAN) / STD)[0]
  assert values == {round(float(black), 3), round(float(light), 3)}


@pytest.mark.parametrize('erasing', [0.5, 1.0])
def test_erased_rectangles_hold_the_fill(erasing):
  images = _images()
  plain = np.asarray(_view(KEY, images, padding=2))
  erased = np.asarray(_view(KEY, images, padding=2, erasing=erasing))
  counts = []
  for before, after in zip(plain, erased, strict=True):
    changed = (before != after).any(axis=-1)
    counts.append(int(changed.sum()))
    # The fill is written after normalisation, in all channels.
    gap = np.abs(after[changed] - FILL[None])
    assert gap.max(initial=0) < 1e-6
  hit = np.count_nonzero(counts)
  assert hit == len(images) if erasing == 1 else 0 < hit < len(images)


def test_one_key_gives_two_sets_the_same_geometry():
  images = _images()
  other = _images(seed=1)
  views = np.asarray(_view(KEY, images, padding=2, erasing=1.0))
  others = np.asarray(_view(KEY, other, padding=2, erasing=1.0))
  fill = np.isclose(views, FILL.astype(np.float32), atol=1e-6).all(-1)
  other_fill = np.isclose(others, FILL.astype(np.float32), atol=1e-6).all(-1)
  assert_array_equal(fill, other_fill)
  black = np.float32(-MEAN / STD)
  assert_array_equal(
    np.isclose(views, black, atol=1e-5).all(-1),
    np.isclose(others, black, atol=1e-5).all(-1),
  )
  # Raw pixels above zero: only the border is black.
  assert np.isclose(views, black, atol=1e-5).any()


def test_another_key_gives_another_view():
  images = _images()
  first = _view(KEY, images, padding=2)
  assert_array_equal(first, _view(KEY, images, padding=2))
  assert (first != _view(jax.random.key(12), images, padding=2)).any()


def test_float_pixels_give_the_same_view():
  images = _images()
  left = _view(KEY, images, padding=2, erasing=0.5)
  right = _view(KEY, images.astype(jnp.float32), padding=2, erasing=0.5)
  assert_allclose(left, right, atol=1e-6)
