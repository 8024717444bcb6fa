"""Generators and discriminators: shapes, ranges, what depends on what."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxreid.models.cyclegan import Discriminator, Generator
from jaxreid.models.streams import count_parameters

KEY = jax.random.key(2)
quick_jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


def _images(count=2, height=16, width=8, seed=0):
  rng = np.random.default_rng(seed)
  shape = (count, height, width, 3)
  return jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32)


@pytest.mark.parametrize('size', [(96, 48), (256, 128), (37, 18), (9, 7)])
def test_images_of_any_size(size):
  images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
  generator = Generator(4, 1)
  params = jax.eval_shape(generator.init, KEY, images)
  made = jax.eval_shape(generator.apply, params, images)
  assert made.shape == images.shape
  maps = jax.ShapeDtypeStruct((2, 3, 2, 6), jnp.float32)
  for judge, given in (
    (Discriminator(4), (images,)),
    (Discriminator(4, joint=True), (images, maps)),
  ):
    params = jax.eval_shape(judge.init, KEY, *given)
    logits = jax.eval_shape(judge.apply, params, *given)
    # A patch of 8 pixels each.
    assert logits.shape == (2, -(-size[0] // 8), -(-size[1] // 8), 1)


@pytest.mark.parametrize('downsamplings', [0, 1, 3])
def test_downsamplings(downsamplings):
  images = _images(1, 9, 7)
  generator = Generator(4, 1, downsamplings)
  params = quick_jit(generator.init)(KEY, images)
  assert generator.apply(params, images).shape == images.shape
  layers = params['params']
  assert {n for n in layers if n.startswith('up')} == {
    f'up{i}' for i in range(downsamplings)
  }
  width = 4 * 2**downsamplings
  assert layers['block0_conv1']['kernel'].shape == (3, 3, width, width)


def test_a_new_upsampling_leaves_no_grid():
  images = _images(1, 8, 8)
  kernel = quick_jit(Generator(4, 1, 1).init)(KEY, images)['params']['up0']
  phases = np.split(np.asarray(kernel['kernel']), 4, axis=-1)
  assert all((phase == phases[0]).all() for phase in phases)
  assert np.ptp(phases[0]) > 0


def test_parameters_of_the_published_networks():
  images = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
  # CycleGAN's generator of 9 blocks has 11.38 M; its two upsamplings are 3x3,
  # ours 4x4.
  more = (16 - 9) * (256 * 128 + 128 * 64)
  params = jax.eval_shape(Generator().init, KEY, images)
  assert count_parameters(params) - more == pytest.approx(11.383e6, rel=1e-3)
  # Its discriminator, PatchGAN's, has 2.765 M.
  params = jax.eval_shape(Discriminator().init, KEY, images)
  assert count_parameters(params) == pytest.approx(2.765e6, rel=1e-3)


def test_generated_pixels_are_in_range_and_images_independent():
  generator = Generator(4, 1, kernel=5)
  images = _images(3)
  params = quick_jit(generator.init)(KEY, images)
  loud = jax.tree.map(lambda x: 40 * x, params)
  apply = quick_jit(generator.apply)
  made = apply(loud, images)
  assert float(jnp.abs(made).max()) <= 1
  assert float(jnp.abs(made).max()) > 0.5
  other = images.at[1].set(-images[1])
  changed = np.abs(apply(loud, other) - made).reshape(3, -1).max(1)
  assert_allclose(changed[[0, 2]], 0, atol=1e-5)
  assert changed[1] > 0.1


def test_a_joint_discriminator_sees_both():
  judge = Discriminator(4, joint=True)
  images = _images(2)
  maps = jnp.asarray(np.random.default_rng(3).normal(size=(2, 4, 2, 5)), 'f4')
  params = quick_jit(judge.init)(KEY, images, maps)
  params = jax.tree.map(lambda x: 10 * x, params)
  logits = quick_jit(judge.apply)(params, images, maps)
  for given in ((-images, maps), (images, -maps)):
    assert float(jnp.abs(judge.apply(params, *given) - logits).max()) > 1e-2
  # Looking once and judging pairs is the same as looking at every pair.
  looks = judge.apply(params, images, method='look')
  again = judge.apply(params, looks, maps, method='judge')
  assert_allclose(again, logits, rtol=1e-3, atol=1e-4)


def test_feature_maps_where_they_belong():
  images, maps = _images(1), jnp.ones((1, 2, 1, 4))
  with pytest.raises(ValueError, match='joint discriminator takes'):
    Discriminator(4).init(KEY, images, maps)
  with pytest.raises(ValueError, match='joint discriminator takes'):
    Discriminator(4, joint=True).init(KEY, images)
