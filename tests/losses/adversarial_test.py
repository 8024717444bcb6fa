"""Losses of TS-GAN's generation and of its teacher, against plain loops."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxreid import losses

RNG = np.random.default_rng(5)
REAL = RNG.normal(0.3, 2, (4, 3, 2, 1)).astype(np.float32)
FAKE = RNG.normal(-0.2, 2, (12, 3, 2, 1)).astype(np.float32)
IMAGES = RNG.uniform(-1, 1, (4, 5, 3, 3)).astype(np.float32)
OTHERS = RNG.uniform(-1, 1, (4, 5, 3, 3)).astype(np.float32)


def _likelihood(logit):
  return 1 / (1 + math.exp(-float(logit)))


def _generator(logits, squares):
  values = []
  for row in logits:
    patches = [
      (float(x) - 1) ** 2 if squares else -math.log(_likelihood(x))
      for x in row.ravel()
    ]
    values.append(sum(patches) / len(patches))
  return values


def _discriminator(real, fake, squares):
  values = []
  each = len(fake) // len(real)
  for n, of_real in enumerate(_generator(real, squares)):
    patches = [
      float(x) ** 2 if squares else -math.log(1 - _likelihood(x))
      for row in fake[n * each : (n + 1) * each]
      for x in row.ravel()
    ]
    values.append(of_real + sum(patches) / len(patches))
  return values


@pytest.mark.parametrize('squares', [False, True])
def test_adversarial_losses_by_a_loop(squares):
  assert_allclose(
    losses.generator_loss(REAL, squares), _generator(REAL, squares), rtol=1e-5
  )
  assert_allclose(
    losses.discriminator_loss(REAL, FAKE, squares),
    _discriminator(REAL, FAKE, squares),
    rtol=1e-5,
  )
  # One fake each, too.
  assert_allclose(
    losses.discriminator_loss(REAL, FAKE[:4], squares),
    _discriminator(REAL, FAKE[:4], squares),
    rtol=1e-5,
  )


def test_hand_values():
  zero = jnp.zeros((1, 2, 2, 1))
  assert_allclose(losses.generator_loss(zero), [math.log(2)], rtol=1e-6)
  assert_allclose(
    losses.discriminator_loss(zero, zero), [2 * math.log(2)], rtol=1e-6
  )
  assert_allclose(losses.generator_loss(zero, True), [1.0])
  assert_allclose(losses.discriminator_loss(zero + 1, zero, True), [0.0])
  a = jnp.array([[[[1.0, 2.0]], [[3.0, 5.0]]]])
  b = jnp.array([[[[0.0, 4.0]], [[3.0, 1.0]]]])
  assert_allclose(losses.cycle_consistency(a, b), [7 / 4])
  assert_allclose(losses.feature_map_mse(a, b, 'sum'), [21.0])
  assert_allclose(losses.feature_map_mse(a, b, 'mean'), [21 / 4])
  assert_allclose(losses.feature_map_mse(a, b), [21 / 4])


def test_who_is_right_pays_little_and_who_is_wrong_much():
  sure = jnp.full((2, 3), 8.0)
  right = losses.discriminator_loss(sure, -sure)
  wrong = losses.discriminator_loss(-sure, sure)
  assert float(right.max()) < 0.01 < 15 < float(wrong.min())
  assert float(losses.generator_loss(sure).max()) < 0.01


def test_cycle_and_maps_by_a_loop():
  for n in range(4):
    differences = [
      float(a) - float(b)
      for a, b in zip(IMAGES[n].ravel(), OTHERS[n].ravel(), strict=True)
    ]
    absolute = sum(abs(d) for d in differences) / len(differences)
    squared = sum(d * d for d in differences)
    cycle = losses.cycle_consistency(IMAGES, OTHERS)
    assert_allclose(cycle[n], absolute, rtol=1e-5)
    total = losses.feature_map_mse(IMAGES, OTHERS, 'sum')
    assert_allclose(total[n], squared, rtol=1e-5)
    mean = losses.feature_map_mse(IMAGES, OTHERS)
    assert_allclose(mean[n], squared / 45, rtol=1e-5)


def test_the_set_m():
  real, fake = IMAGES[:2], OTHERS[:2]
  real_map, fake_map = (
    RNG.normal(size=(2, 2, 1, 4)).astype(np.float32) for _ in range(2)
  )
  images, maps = losses.fake_pairs(real, fake, real_map, fake_map)
  expected = []
  for n in range(2):
    expected += [
      (fake[n], fake_map[n]),
      (fake[n], real_map[n]),
      (real[n], fake_map[n]),
    ]
  assert len(images) == len(maps) == len(expected)
  for image, feature_map, pair in zip(images, maps, expected, strict=True):
    assert_array_equal(image, pair[0])
    assert_array_equal(feature_map, pair[1])
    # The real pair is not among them.
    assert not any(
      np.array_equal(image, real[n])
      and np.array_equal(feature_map, real_map[n])
      for n in range(2)
    )


def _values(real, fake, images, others):
  return (
    losses.generator_loss(fake).mean()
    + losses.generator_loss(fake, True).mean()
    + losses.discriminator_loss(real, fake).mean()
    + losses.discriminator_loss(real, fake, True).mean()
    + losses.cycle_consistency(images, others).mean()
    + losses.feature_map_mse(images, others, 'sum').mean()
  )


def test_jit_and_gradients():
  given = (REAL, FAKE, IMAGES, OTHERS)
  value = _values(*map(jnp.asarray, given))
  assert_allclose(jax.jit(_values)(*given), value, rtol=1e-5)
  # Also at logits that saturate, and where images coincide.
  extreme = (1e4 * REAL, -1e4 * FAKE, IMAGES, IMAGES)
  for arguments in (given, extreme):
    gradients = jax.grad(_values, (0, 1, 2, 3))(*map(jnp.asarray, arguments))
    for gradient in gradients:
      assert np.isfinite(gradient).all()
  # Confident mistakes still teach: the gradient does not vanish.
  of_fake = jax.grad(lambda x: losses.generator_loss(x).sum())
  assert_allclose(of_fake(jnp.full((1, 1), -30.0)), [[-1.0]], rtol=1e-5)


def test_half_precision_is_computed_in_single():
  half = jnp.asarray(REAL, jnp.bfloat16)
  for loss in (
    losses.generator_loss(half),
    losses.discriminator_loss(half, half),
    losses.cycle_consistency(half, half),
    losses.feature_map_mse(half, half),
  ):
    assert loss.dtype == jnp.float32
    assert loss.shape == (4,)


def test_mistakes_are_named():
  with pytest.raises(ValueError, match='4 real and 6 fake'):
    losses.discriminator_loss(REAL, FAKE[:6])
  with pytest.raises(ValueError, match='images must be of one shape'):
    losses.cycle_consistency(IMAGES, OTHERS[:2])
  with pytest.raises(ValueError, match='feature maps must be of one shape'):
    losses.feature_map_mse(IMAGES, OTHERS[:2])
  with pytest.raises(ValueError, match="'sum' or 'mean', not 'max'"):
    losses.feature_map_mse(IMAGES, OTHERS, 'max')
