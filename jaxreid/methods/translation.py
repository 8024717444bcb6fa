"""Images of one modality made of those of the other: TS-GAN's first module.

Synopsis:

  translator = Translator(Generator(64), Discriminator(64, joint=True), ...)
  fake = translator.generate(params['generator'], 'infrared', visible)

Images are normalised as for a backbone, on both sides; the scale -1..1 of the
generators stays inside.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

from jaxreid import losses
from jaxreid.augment import color
from jaxreid.method import Key
from jaxreid.models.cyclegan import Discriminator, Generator

MODALITIES = ('visible', 'infrared')
# 'real' and 'fake' -> images, or their feature maps; or a modality's trees.
Trees = Mapping[str, Any]


class Translator(NamedTuple):
  """Two generators and two discriminators, without their parameters.

  Parameters are {'visible': ..., 'infrared': ...}, by the modality of the
  images that a generator makes and a discriminator judges: G_R and G_I, D_R
  and D_I.

  Attributes:
    generator: the form of G_I and G_R.
    of_infrared: D_I, which may be joint.
    of_visible: D_R, which is not.
    least_squares: as in `losses.discriminator_loss`.
  """

  generator: Generator
  of_infrared: Discriminator
  of_visible: Discriminator
  least_squares: bool

  def init(
    self,
    key: Key,
    images: Float[Array, 'n h w 3'],
    feature_map: Float[Array, 'n p q c'],
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """First parameters of the generators and of the discriminators."""
    keys = jax.random.split(key, 4)
    generators = {
      m: self.generator.init(k, images)['params']
      for m, k in zip(MODALITIES, keys[:2], strict=True)
    }
    given = feature_map if self.of_infrared.joint else None
    discriminators = {
      'infrared': self.of_infrared.init(keys[2], images, given)['params'],
      'visible': self.of_visible.init(keys[3], images)['params'],
    }
    return generators, discriminators

  def generate(
    self, params: Trees, modality: str, images: Float[Array, 'n h w 3']
  ) -> Float[Array, 'n h w 3']:
    """Images of `modality`, made of images of the other."""
    made: Any = self.generator.apply(
      {'params': params[modality]}, _to_unit(images)
    )
    return color.normalize((made + 1) * 127.5)

  def cycle_loss(
    self, images: Float[Array, 'n h w 3'], cycled: Float[Array, 'n h w 3']
  ) -> Array:
    """A term of Eq. 6, on the scale -1..1."""
    return losses.cycle_consistency(_to_unit(images), _to_unit(cycled)).mean()

  def fooling_loss(
    self,
    params: Trees,
    modality: str,
    fake: Float[Array, 'n h w 3'],
    feature_map: Float[Array, 'n p q c'] | None = None,
  ) -> Array:
    """Eq. 1: what generated images cost their generator."""
    judge = getattr(self, f'of_{modality}')
    logits = judge.apply(
      {'params': params[modality]}, _to_unit(fake), feature_map
    )
    return losses.generator_loss(logits, self.least_squares).mean()

  def logits(
    self, params: Trees, modality: str, images: Trees, maps: Trees | None
  ) -> tuple[Array, Array]:
    """Logits of what is real and of what is fake, seeing an image once.

    Args:
      params: of the discriminators.
      modality: whose discriminator.
      images: 'real' and 'fake'.
      maps: their feature maps for a joint discriminator, whose fakes are then
        the set M (`losses.fake_pairs`); else None.
    """
    judge, own = getattr(self, f'of_{modality}'), {'params': params[modality]}
    real, fake = (
      judge.apply(own, _to_unit(images[name]), method='look')
      for name in ('real', 'fake')
    )
    if maps is None:
      pairs = [(real, None), (fake, None)]
    else:
      fakes = losses.fake_pairs(real, fake, maps['real'], maps['fake'])
      pairs = [(real, maps['real']), fakes]
    of_real, of_fake = (judge.apply(own, *p, method='judge') for p in pairs)
    return of_real, of_fake

  def telling_loss(
    self, modality: str, real: Array, fake: Array
  ) -> tuple[Array, dict[str, Array]]:
    """Eq. 2 of a discriminator's logits, and what to log of them.

    The accuracies are shares of patches. Fakes are the generated images with
    their own maps, which the generator plays with (Eq. 1); the other pairs of
    M, of a joint discriminator alone, are called mixed.
    """
    loss = losses.discriminator_loss(real, fake, self.least_squares).mean()
    middle = 0.5 if self.least_squares else 0.0
    found = (fake <= middle).reshape(len(real), -1, *fake.shape[1:])
    right = {'real': (real > middle).mean(), 'fake': found[:, 0].mean()}
    metrics = {'accuracy': (right['real'] + right['fake']) / 2}
    if found.shape[1] > 1:
      right['mixed'] = found[:, 1:].mean()
    metrics |= {f'accuracy_{part}': share for part, share in right.items()}
    return loss, {f'd_{modality}_{m}': value for m, value in metrics.items()}


def _to_unit(images: Float[Array, 'n h w 3']) -> Float[Array, 'n h w 3']:
  return color.denormalize(images) / 127.5 - 1
