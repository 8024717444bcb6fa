"""TS-GAN: a student guided by an infrared teacher and generated images.

Zhang, Jiang, Huang, Li, Xu, "RGB-IR Cross-modality Person ReID based on
Teacher-Student GAN Model", 2020.

A CycleGAN makes fake infrared images of visible ones (Eq. 1 to 7). One
backbone learns from visible, infrared and fake infrared images (Eq. 8 to 12);
its feature maps are drawn to those of a frozen network that was trained on
infrared images alone (Eq. 13 to 16). Test needs the backbone only.

Three players move in turn (Algorithm 1): 'generator' holds G_I and G_R,
'backbone' the student, 'discriminator' D_I and D_R. A fourth, 'teacher', has
no loss: `jaxreid.teacher` fills it.

Synopsis:

  method = tsgan(395, resnet_stages('resnet50'))
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from jaxreid import losses
from jaxreid.augment import color
from jaxreid.augment.view import training_view
from jaxreid.method import Aux, Batch, Key, Method, Variables
from jaxreid.methods import baseline
from jaxreid.methods.baseline import PLAYER, StageFactory
from jaxreid.methods.guidance import TEACHER, TERMS, guidance
from jaxreid.methods.translation import MODALITIES, Translator, Trees
from jaxreid.models.cyclegan import Discriminator, Generator
from jaxreid.models.head import Head
from jaxreid.models.streams import (
  EmbeddingNetwork,
  MultiStream,
  NetworkOutput,
  fold,
  unfold,
)

# Of the backbone, in the order of folding.
STREAMS = ('visible', 'infrared', 'fake')


def tsgan(
  num_classes: int,
  stages: Sequence[StageFactory],
  *,
  pooling: str = 'average',
  margin: float = 0.3,
  label_smoothing: float = 0.1,
  identity_weight: float = 3.0,
  triplet_weight: float = 1.0,
  gan_weight: float = 0.1,
  same_weight: float = 0.003,
  cross_weight: float = 0.006,
  cycle_weight: float = 10.0,
  teacher_losses: Sequence[str] = ('real', 'fake', 'cross'),
  map_reduction: str = 'mean',
  discriminator: str = 'joint',
  gan_loss: str = 'bce',
  detach_feature_map: bool = False,
  generator_width: int = 64,
  generator_blocks: int = 9,
  generator_downsamplings: int = 2,
  generator_kernel: int = 7,
  discriminator_width: int = 64,
  padding: int = 10,
  erasing: float = 0.0,
  test_feature: str = 'pooled',
) -> Method:
  """The method of the paper; every weight's default is the paper's value.

  Args:
    num_classes: identities in training.
    stages: backbone as a list of stage factories, one for all images. The
      teacher has all of them but the last.
    pooling: 'gem' or 'average'.
    margin: m of Eq. 11.
    label_smoothing: epsilon of Eq. 10.
    identity_weight: lambda_1.
    triplet_weight: lambda_2.
    gan_weight: lambda_3; of no effect with an ordinary discriminator, which
      does not see the backbone.
    same_weight: alpha_s.
    cross_weight: alpha_c.
    cycle_weight: omega.
    teacher_losses: of 'real' (Eq. 13), 'fake' (Eq. 14) and 'cross' (Eq. 15).
    map_reduction: of their squared norms, 'sum' or 'mean'. The paper does not
      say which; on the rendered set 'mean' is far better (docs/results.md).
    discriminator: D_I is 'joint' (of image and feature map) or 'ordinary' (of
      the image alone, as D_R always is).
    gan_loss: 'bce' or 'least_squares', of all adversarial losses.
    detach_feature_map: whether Eq. 1 passes no gradient through f(X_I').
    generator_width: as in `Generator`.
    generator_blocks: as in `Generator`.
    generator_downsamplings: as in `Generator`.
    generator_kernel: as in `Generator`.
    discriminator_width: as in `Discriminator`.
    padding: zero pixels around an image before its random crop.
    erasing: probability of random erasing per image. The generators learn to
      paint what it leaves behind.
    test_feature: 'pooled' (before the BNNeck) or 'neck' (after it).

  Raises:
    ValueError: on an option that does not exist.
  """
  _check(discriminator, gan_loss, map_reduction, pooling, teacher_losses)
  baseline.check_test_feature(test_feature)
  network = EmbeddingNetwork(
    MultiStream(tuple(stages), 0, STREAMS),
    Head(num_classes, pooling, neck_scale_std=0.0),
  )
  teacher = MultiStream(tuple(stages[:-1]), 0, ('infrared',))
  weights = {'real': same_weight, 'fake': same_weight, 'cross': cross_weight}
  weights = {name: weights[name] for name in teacher_losses}
  joint = discriminator == 'joint'
  translator = Translator(
    Generator(
      generator_width,
      generator_blocks,
      generator_downsamplings,
      generator_kernel,
    ),
    Discriminator(discriminator_width, joint),
    Discriminator(discriminator_width),
    gan_loss == 'least_squares',
  )

  def augment(key: Key, batch: Batch) -> Batch:
    views = {
      name: training_view(k, batch[name], padding=padding, erasing=erasing)
      for name, k in zip(MODALITIES, jax.random.split(key, 2), strict=True)
    }
    return {**views, 'label': batch['label']}

  def init(key: Key, batch: Batch) -> Variables:
    keys = jax.random.split(key, 3)
    variables = baseline.make_init(network, augment, ('visible',))(
      keys[0], batch
    )
    images = augment(keys[0], batch)['infrared']
    taught = teacher.init(keys[1], {'infrared': images}, False)
    last_map = _at_test(network, variables, images).feature_maps[-1]
    generators, judges = translator.init(keys[2], images, last_map)
    return {
      'params': {
        'generator': generators,
        **variables['params'],
        'discriminator': judges,
        TEACHER: taught['params'],
      },
      'model_state': {
        'generator': {},
        **variables['model_state'],
        'discriminator': {},
        TEACHER: taught['batch_stats'],
      },
    }

  def move_generators(variables: Variables, batch: Batch, key: Key, _: Any):
    """L_G (Eq. 7) of both generators."""
    del key
    params = variables['params']['generator']
    fake = {
      m: translator.generate(params, m, batch[other])
      for m, other in (MODALITIES, MODALITIES[::-1])
    }
    cycles = [
      translator.cycle_loss(
        batch[m], translator.generate(params, m, fake[other])
      )
      for m, other in (MODALITIES, MODALITIES[::-1])
    ]
    cycle = cycles[0] + cycles[1]
    maps = {}
    if joint:
      seen = fake['infrared']
      seen = jax.lax.stop_gradient(seen) if detach_feature_map else seen
      # Running statistics: the backbone is not to notice.
      maps['infrared'] = _at_test(network, variables, seen).feature_maps[-1]
    judges = variables['params']['discriminator']
    fooling = {
      m: translator.fooling_loss(judges, m, fake[m], maps.get(m))
      for m in MODALITIES
    }
    metrics = {f'g_{m}': term for m, term in fooling.items()}
    total = sum(fooling.values()) + cycle_weight * cycle
    made = {f'fake_{m}': images for m, images in fake.items()}
    return total, Aux({**metrics, 'cycle': cycle}, {}, made)

  def move_backbone(variables: Variables, batch: Batch, key: Key, given: Trees):
    """L_ReID + L_TS (Eq. 8 and 16)."""
    images = {m: batch[m] for m in MODALITIES}
    images['fake'] = given['fake_infrared']
    output, model_state = baseline.forward(
      network, variables, images, STREAMS, key
    )
    # Folded, not concatenated: rows stay on the device that computed them.
    labels = jnp.repeat(batch['label'], len(STREAMS))
    f = fold([output.pooled[s] for s in STREAMS])
    logits = fold([output.logits[s] for s in STREAMS])
    identity = losses.identity_loss(logits, labels, label_smoothing).mean()
    triplet = losses.batch_hard_triplet(f, f, f, labels, margin).mean()
    total = identity_weight * identity + triplet_weight * triplet
    middle, last = (unfold(x, STREAMS) for x in output.feature_maps[-2:])
    guiding, terms = guidance(
      teacher, variables, images, middle, weights, map_reduction
    )
    metrics = {'identity': identity, 'triplet': triplet, **terms}
    metrics['accuracy'] = (logits.argmax(-1) == labels).mean()
    maps = {'real_map': last['infrared'], 'fake_map': last['fake']}
    if joint:
      _, of_fakes = _pair_logits(
        translator, variables, batch, {**given, **maps}
      )
      fooling = losses.generator_loss(of_fakes, translator.least_squares)
      metrics['gan'] = fooling.mean()
      total += gan_weight * metrics['gan']
    return total + guiding, Aux(
      metrics, model_state, maps if joint else {}, output.pooled
    )

  def move_discriminators(
    variables: Variables, batch: Batch, key: Key, given: Trees
  ):
    """L_D (Eq. 2) of both discriminators."""
    del key
    infrared, metrics = translator.telling_loss(
      'infrared', *_pair_logits(translator, variables, batch, given)
    )
    visible, others = translator.telling_loss(
      'visible',
      *translator.logits(
        variables['params']['discriminator'],
        'visible',
        {'real': batch['visible'], 'fake': given['fake_visible']},
        None,
      ),
    )
    return infrared + visible, Aux({**metrics, **others}, {})

  def views(
    variables: Variables, images: UInt8[Array, 'b h w 3'], modality: str
  ) -> dict[str, Float[Array, 'b h w 3']]:
    params = variables['params']['generator']
    other = 'infrared' if modality == 'visible' else 'visible'
    fake = translator.generate(params, other, color.normalize(images))
    cycled = translator.generate(params, modality, fake)
    return {
      f'fake {other}': color.denormalize(fake),
      f'{modality} cycle': color.denormalize(cycled),
    }

  return Method(
    init=init,
    augment=augment,
    losses={
      'generator': move_generators,
      PLAYER: move_backbone,
      'discriminator': move_discriminators,
    },
    embed=baseline.make_embed(network, STREAMS, test_feature),
    views=views,
  )


def _at_test(
  network: EmbeddingNetwork, variables: Variables, images: Array
) -> NetworkOutput:
  output: Any = network.apply(
    {
      'params': variables['params'][PLAYER],
      'batch_stats': variables['model_state'][PLAYER],
    },
    {'fake': images},
    train=False,
  )
  return output


def _pair_logits(
  translator: Translator, variables: Variables, batch: Batch, given: Trees
) -> tuple[Array, Array]:
  """D_I of what is real and fake in the batch; of pairs if it is joint."""
  images = {'real': batch['infrared'], 'fake': given['fake_infrared']}
  maps = None
  if translator.of_infrared.joint:
    maps = {'real': given['real_map'], 'fake': given['fake_map']}
  params = variables['params']['discriminator']
  return translator.logits(params, 'infrared', images, maps)


def _check(
  discriminator: str,
  gan_loss: str,
  map_reduction: str,
  pooling: str,
  teacher_losses: Sequence[str],
):
  for name, value, known in (
    ('discriminator', discriminator, ('joint', 'ordinary')),
    ('gan_loss', gan_loss, ('bce', 'least_squares')),
    ('map_reduction', map_reduction, ('sum', 'mean')),
    ('pooling', pooling, ('gem', 'average')),
  ):
    if value not in known:
      raise ValueError(f'method.{name} must be one of {known}, not {value!r}')
  if set(teacher_losses) - set(TERMS):
    raise ValueError(
      f'method.teacher_losses must be some of {tuple(TERMS)}, not '
      f'{tuple(teacher_losses)}'
    )
