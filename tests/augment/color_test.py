"""Gray mixtures and normalisation against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid.augment import color

N, H, W = 4, 5, 3


def pixels():
  values = np.random.default_rng(1).integers(0, 256, (N, H, W, 3))
  return values.astype(np.uint8)


def mix_oracle(images, weights):
  out = np.zeros(images.shape)
  for i, row, column in np.ndindex(images.shape[:3]):
    r, g, b = (float(v) for v in images[i, row, column])
    a = [float(v) for v in weights[i]]
    out[i, row, column] = int(a[0] * r + a[1] * g + a[2] * b + 1e-3)
  return out


def test_normalize_agrees_with_loops():
  images = pixels()
  got = color.normalize(jnp.asarray(images))
  assert got.dtype == jnp.float32
  mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
  for index in np.ndindex(images.shape):
    c = index[-1]
    want = (float(images[index]) / 255 - mean[c]) / std[c]
    assert abs(float(got[index]) - want) < 2e-6
  np.testing.assert_array_equal(
    color.normalize(jnp.asarray(images, jnp.float32)), got
  )


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_random_gray_agrees_with_loops(dtype):
  images, key = pixels(), jax.random.key(2)
  weights = np.asarray(color.draw_gray_weights(key, N))
  got = color.random_gray(key, jnp.asarray(images.astype(dtype)))
  assert got.dtype == dtype
  np.testing.assert_array_equal(got, mix_oracle(images, weights))
  assert len({tuple(row) for row in weights.tolist()}) == N


def test_gray_is_whole_equal_in_channels_and_between_them():
  images = pixels().astype(np.float32)
  got = np.asarray(color.random_gray(jax.random.key(3), jnp.asarray(images)))
  np.testing.assert_array_equal(got, np.floor(got))
  np.testing.assert_array_equal(got[..., :1].repeat(3, -1), got)
  assert (got[..., 0] >= images.min(axis=-1) - 1).all()
  assert (got[..., 0] <= images.max(axis=-1)).all()


def test_gray_keeps_gray_pixels():
  ramp = np.arange(256, dtype=np.uint8)[None, :, None, None]
  images = jnp.asarray(np.broadcast_to(ramp, (500, 256, 1, 3)))
  got = color.random_gray(jax.random.key(4), images)
  np.testing.assert_array_equal(got, images)
  np.testing.assert_array_equal(color.fixed_gray(images), images)


def test_fixed_gray_of_pure_colours():
  images = np.zeros((1, 4, 1, 3), np.uint8)
  images[0, 0, 0, 0] = images[0, 1, 0, 1] = images[0, 2, 0, 2] = 255
  images[0, 3, 0] = (10, 200, 31)
  got = np.asarray(color.fixed_gray(jnp.asarray(images)))[0, :, 0, 0]
  assert got.tolist() == [76, 149, 29, 123]


def test_weights_are_three_uniforms_over_their_sum():
  got = np.asarray(color.draw_gray_weights(jax.random.key(5), 20000))
  np.testing.assert_allclose(got.sum(1), 1, atol=1e-6)
  assert got.min() >= 0
  draws = np.random.default_rng(6).uniform(size=(20000, 3))
  want = draws / draws.sum(1, keepdims=True)
  for q in (0.1, 0.5, 0.9):
    np.testing.assert_allclose(
      np.quantile(got, q, axis=0), np.quantile(want, q, axis=0), atol=0.01
    )
  # A Dirichlet(1, 1, 1) draw has standard deviation 0.236, this one 0.17.
  assert abs(got.std() - want.std()) < 0.005


def test_an_all_zero_draw_gives_equal_weights(monkeypatch):
  monkeypatch.setattr(
    jax.random, 'uniform', lambda key, shape: jnp.zeros(shape)
  )
  got = color.draw_gray_weights(jax.random.key(0), 2)
  np.testing.assert_allclose(got, 1 / 3, rtol=1e-6)


def test_jit_equals_eager_and_keys_matter():
  images = jnp.asarray(pixels())
  key, other = jax.random.split(jax.random.key(6))
  eager = color.random_gray(key, images)
  np.testing.assert_array_equal(jax.jit(color.random_gray)(key, images), eager)
  assert not np.array_equal(color.random_gray(other, images), eager)
