"""Losses of image generation and of learning from a teacher's feature maps.

Synopsis, with logits of any shape after the first axis:

  loss = generator_loss(judge(*fake_pairs)).mean()
  loss = discriminator_loss(judge(*real_pair), judge(*fake_pairs)).mean()
  loss = cycle_consistency(visible, back_again).mean()
  loss = feature_map_mse(student_map, teacher_map, reduction='sum').mean()

Zhang et al., "RGB-IR Cross-modality Person ReID based on Teacher-Student GAN
Model", 2020. It prints the adversarial losses as likelihoods; as losses they
are negated: binary cross entropy on a discriminator's logits.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxreid.distance import working_dtype


@functools.partial(jax.jit, static_argnames='least_squares')
def generator_loss(
  logits: Float[Array, 'n ...'], least_squares: bool = False
) -> Float[Array, 'n']:
  """What it costs not to be taken for real: Eq. 1 and 12, negated.

  `-log D` with D the sigmoid of a logit, the mean over an image's patches.

  Args:
    logits: [N, ...] of a discriminator, on what should look real.
    least_squares: `(logit - 1)^2` in its place (Mao et al., 2017,
      https://arxiv.org/abs/1611.04076, as in CycleGAN's code).

  Returns:
    [N] losses.
  """
  logits = logits.astype(working_dtype(logits))
  if least_squares:
    return _per_image(jnp.square(logits - 1))
  return _per_image(jax.nn.softplus(-logits))


@functools.partial(jax.jit, static_argnames='least_squares')
def discriminator_loss(
  real_logits: Float[Array, 'n ...'],
  fake_logits: Float[Array, 'm ...'],
  least_squares: bool = False,
) -> Float[Array, 'n']:
  """What it costs to mistake real for fake or fake for real: Eq. 2 to 4.

  `-log D(real) - log(1 - D(fake))`, the means over an image's patches.

  Args:
    real_logits: [N, ...].
    fake_logits: [K * N, ...] where there are K fakes for each real image, as
      `fake_pairs` orders them: rows n * K to n * K + K - 1 belong to image n.
      Their mean counts (the expectation over M).
    least_squares: `(real - 1)^2 + fake^2` in its place.

  Returns:
    [N] losses.

  Raises:
    ValueError: if the fakes are not a multiple of the real ones.
  """
  count = len(real_logits)
  if len(fake_logits) % count:
    raise ValueError(
      f'There must be as many fakes for every real image; got {count} real '
      f'and {len(fake_logits)} fake rows.'
    )
  fake = fake_logits.astype(working_dtype(real_logits, fake_logits))
  fake = jnp.square(fake) if least_squares else jax.nn.softplus(fake)
  fakes = _per_image(fake).reshape(count, -1).mean(1)
  return generator_loss(real_logits, least_squares) + fakes


@jax.jit
def fake_pairs(
  real: Float[Array, 'n ...'],
  fake: Float[Array, 'n ...'],
  real_map: Float[Array, 'n h w c'],
  fake_map: Float[Array, 'n h w c'],
) -> tuple[Float[Array, 'k ...'], Float[Array, 'k h w c']]:
  """The set M: pairs of an image and a feature map that are not real (Eq. 5).

  M = (X_I', f(X_I')), (X_I', f(X_I)), (X_I, f(X_I')), where X_I is a real
  infrared image, X_I' a fake one and f the feature map of the backbone. The
  paper prints f(X_I) in the third pair, too, which would make it the real pair
  of Eq. 3; it must be the fake image's map, or D_I would be taught
  opposite answers to one question.

  Args:
    real: [N, ...] real images, or whatever a discriminator's first layers
      have made of them one by one.
    fake: [N, ...] likewise, of the fake images.
    real_map: [N, h, w, C], f of the real images.
    fake_map: [N, h, w, C], f of the fake images.

  Returns:
    [3 N, ...] images and [3 N, h, w, C] maps; rows 3 n to 3 n + 2 are the
    pairs of images n, so that a sharded batch stays where it is.
  """
  images = jnp.stack([fake, fake, real], axis=1)
  maps = jnp.stack([fake_map, real_map, fake_map], axis=1)
  return (
    images.reshape(-1, *images.shape[2:]),
    maps.reshape(-1, *maps.shape[2:]),
  )


@jax.jit
def cycle_consistency(
  images: Float[Array, 'n h w c'], cycled: Float[Array, '...']
) -> Float[Array, 'n']:
  """The L1 distance of images to what came back from the other modality.

  One of the two terms of Eq. 6: the mean absolute difference, as in CycleGAN
  (Zhu et al., 2017), so that its weight does not depend on the image's size.

  Args:
    images: [N, H, W, C].
    cycled: [N, H, W, C], through both generators.

  Returns:
    [N] losses.

  Raises:
    ValueError: if the shapes differ.
  """
  _require_equal(images, cycled, 'images')
  dtype = working_dtype(images, cycled)
  return _per_image(jnp.abs(images.astype(dtype) - cycled.astype(dtype)))


@functools.partial(jax.jit, static_argnames='reduction')
def feature_map_mse(
  student: Float[Array, 'n h w c'],
  teacher: Float[Array, '...'],
  reduction: str = 'mean',
) -> Float[Array, 'n']:
  """The squared distance of two feature maps: Eq. 13, 14 and 15.

  The paper prints a squared norm and calls it a mean squared error. With its
  weights of 0.003 and 0.006 the 'sum' over a map of ResNet-50 (16 x 8 x 1024)
  is a large term, the 'mean' a small one; docs/results.md compares them on the
  rendered set. Gradients reach both sides: stop
  them at a teacher that is not frozen.

  Args:
    student: [N, h, w, C].
    teacher: [N, h, w, C].
    reduction: over a map, 'sum' or 'mean'.

  Returns:
    [N] losses.

  Raises:
    ValueError: if the shapes differ, or on another reduction.
  """
  _require_equal(student, teacher, 'feature maps')
  if reduction not in ('sum', 'mean'):
    raise ValueError(f"A reduction is 'sum' or 'mean', not {reduction!r}.")
  dtype = working_dtype(student, teacher)
  squared = jnp.square(student.astype(dtype) - teacher.astype(dtype))
  flat = squared.reshape(len(squared), -1)
  return flat.sum(1) if reduction == 'sum' else flat.mean(1)


def _per_image(values: Float[Array, 'n ...']) -> Float[Array, 'n']:
  return values.reshape(len(values), -1).mean(1)


def _require_equal(left: Array, right: Array, what: str) -> None:
  if left.shape != right.shape:
    raise ValueError(
      f'The {what} must be of one shape; got {left.shape} and {right.shape}.'
    )
