"""XIV: infrared and visible images with an X modality between them.

Li, Wei, Hong, Gong, "Infrared-Visible Cross-Modal Person Re-Identification
with an X Modality", AAAI 2020.

X = g(V) is made of the visible images by two 1x1 convolutions that are learnt
together with one network for all three modalities.

  L = L_M + lambda L_C                                          (Eq. 11)

L_M holds the identity and triplet losses inside each modality, L_C triplets
between infrared and X and between infrared and visible. At test a visible
image has two embeddings, as itself and as its X, and their distances to an
infrared query are added (Eq. 2).

Synopsis:

  method = xiv(395, resnet_stages('resnet50'))
"""

from collections.abc import Mapping, Sequence
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
from jaxreid.models.cost import multiply_adds
from jaxreid.models.head import Head
from jaxreid.models.streams import EmbeddingNetwork, MultiStream
from jaxreid.models.x_generator import XGenerator, formula

# The order of a batch in the paper.
STREAMS = ('infrared', 'x', 'visible')
FIXED = ('mean', 'gray', 'value', 'luma')
KINDS = ('learnt', *FIXED, 'none')
GAPS = ('samples', 'centers')


def xiv(
  num_classes: int,
  stages: Sequence[StageFactory],
  *,
  x: str = 'learnt',
  x_bias: float = 0.0,
  pooling: str = 'average',
  neck: bool = True,
  gap: str = 'samples',
  gap_weight: float = 0.1,
  cross_margin: float = 0.5,
  margin: float = 0.3,
  label_smoothing: float = 0.0,
  padding: int = 10,
  erasing: float = 0.5,
  test_feature: str = 'pooled',
) -> Method:
  """The method of the paper; every argument's default is the paper's value.

  Args:
    num_classes: identities in training.
    stages: backbone as a list of stage factories, one for all modalities.
    x: 'learnt' (g), a fixed map of table 5, 'mean', 'gray', 'value' or 'luma'
      (see `color.one_channel`; computed from the pixel values of the augmented
      image), or 'none': the two modalities alone.
    x_bias: where the learnt map's bias before its ReLU starts. With 0, as
      released, pixels darker than ImageNet's mean colour start without a
      gradient; with 2 none does.
    pooling: 'gem' or 'average'.
    neck: whether there is a BNNeck before the classifier.
    gap: L_C between 'samples' (Eq. 4 to 6) or between 'centers' (as released).
    gap_weight: lambda of Eq. 11; 0 leaves L_C out.
    cross_margin: alpha_1, of L_C.
    margin: alpha_2, of L_M.
    label_smoothing: of the identity losses; 0.1 as released.
    padding: zero pixels around an image before its random crop.
    erasing: probability of random erasing per image. Like `padding` not in
      the paper, but in the baseline that it builds on, and as released.
    test_feature: 'pooled' (before the BNNeck) or 'neck' (after it).

  Raises:
    ValueError: on an option that does not exist.
  """
  _check(x, gap, pooling, test_feature)
  streams = tuple(s for s in STREAMS if s != 'x' or x != 'none')
  network = EmbeddingNetwork(
    MultiStream(tuple(stages), 0, streams),
    Head(num_classes, pooling, neck, neck_scale_std=0.0),
  )

  def augment(key: Key, batch: Batch) -> Batch:
    keys = jax.random.split(key, 2)
    views = {
      name: training_view(k, batch[name], padding=padding, erasing=erasing)
      for name, k in zip(('visible', 'infrared'), keys, strict=True)
    }
    return {**views, 'label': batch['label']}

  def init(key: Key, batch: Batch) -> Variables:
    variables = baseline.make_init(network, augment, ('visible',))(key, batch)
    if x == 'learnt':
      visible = augment(key, batch)['visible']
      generator = XGenerator(x_bias).init(key, visible)['params']
      variables['params'][PLAYER] = {
        **variables['params'][PLAYER],
        'generator': generator,
      }
    return variables

  def with_x(variables: Variables, visible: Array) -> dict[str, Array]:
    """V, and X unless there is none."""
    if x == 'none':
      return {'visible': visible}
    params = variables['params'][PLAYER]
    return {'visible': visible, 'x': make_x(x, params, visible)}

  def loss(variables: Variables, batch: Batch, key: Key, outputs: Any):
    del key, outputs
    images = with_x(variables, batch['visible'])
    images['infrared'] = batch['infrared']
    output, model_state = baseline.forward(network, variables, images, streams)
    labels = batch['label']
    identity = sum(
      losses.identity_loss(output.logits[s], labels, label_smoothing).mean()
      for s in streams
    )
    triplet = sum(
      losses.batch_hard_triplet(f, f, f, labels, margin).mean()
      for f in (output.pooled[s] for s in streams)
    )
    cross = _cross(gap, output.pooled, labels, cross_margin).mean()
    correct = [output.logits[s].argmax(-1) == labels for s in streams]
    metrics = {
      'identity': identity,
      'triplet': triplet,
      'cross': cross,
      'accuracy': jnp.stack(correct).mean(),
    }
    total = identity + triplet + gap_weight * cross
    return total, Aux(metrics, model_state, embeddings=output.pooled)

  def embed(
    variables: Variables, images: UInt8[Array, 'b h w 3'], modality: str
  ) -> Float[Array, 'b m d']:
    given = _normalized(images, modality)
    if 'visible' in given:
      given = with_x(variables, given['visible'])
    output = network.apply(
      {
        'params': variables['params'][PLAYER],
        'batch_stats': variables['model_state'][PLAYER],
      },
      given,
      train=False,
    )
    # V before X: a plain distance takes the first.
    feature = getattr(output, test_feature)
    stacked = jnp.stack([feature[name] for name in given], axis=1)
    norm = jnp.linalg.norm(stacked, axis=-1, keepdims=True)
    return stacked / jnp.maximum(norm, 1e-12)

  def views(
    variables: Variables, images: UInt8[Array, 'b h w 3'], modality: str
  ) -> dict[str, Float[Array, 'b h w 3']]:
    given = _normalized(images, modality)
    if 'visible' not in given:
      return {}
    return {'X': color.denormalize(with_x(variables, given['visible'])['x'])}

  def facts(variables: Variables, image_size: tuple[int, int]) -> list[str]:
    return _facts(network.backbone, x, variables, image_size)

  return Method(
    init=init,
    augment=augment,
    losses={PLAYER: loss},
    embed=embed,
    views=None if x == 'none' else views,
    facts=facts,
  )


def make_x(
  kind: str,
  params: Mapping[str, Any],
  visible: Float[Array, 'n h w 3'],
) -> Float[Array, 'n h w 3']:
  """X of normalised visible images, normalised as these are.

  Args:
    kind: 'learnt', or a fixed map as in `color.one_channel`.
    params: with the generator's under 'generator' if it is learnt.
    visible: [N, H, W, 3].
  """
  if kind == 'learnt':
    x: Any = XGenerator().apply({'params': params['generator']}, visible)
    return x
  pixels = color.denormalize(visible)
  return color.normalize(color.one_channel(pixels, kind))


def _cross(
  gap: str, f: Mapping[str, Array], labels: Array, margin: float
) -> Array:
  """L_C; between infrared and visible alone where there is no X."""
  functions = {
    'samples': losses.cross_modality_gap,
    'centers': losses.cross_center_gap,
  }
  sets = (f['infrared'], f.get('x', f['visible']), f['visible'])
  total = functions[gap](*sets, labels, margin)
  return total if 'x' in f else total / 2


def _normalized(images: Array, modality: str) -> dict[str, Array]:
  """The stream that an image of a modality goes to; gray is a visible one."""
  if modality not in ('visible', 'infrared', 'gray'):
    raise ValueError(
      f"modality must be 'visible', 'infrared' or 'gray', not {modality!r}"
    )
  if modality == 'gray':
    images, modality = color.fixed_gray(images), 'visible'
  return {modality: color.normalize(images)}


def _facts(
  backbone: MultiStream,
  x: str,
  variables: Variables,
  image_size: tuple[int, int],
) -> list[str]:
  """What X is, and what it costs beside the network."""
  params = variables['params'][PLAYER]
  image = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
  found = []
  counted = []
  if x == 'learnt':
    generator = {'params': params['generator']}
    mean, std = color.IMAGENET_MEAN, color.IMAGENET_STD
    found.append(
      formula(params['generator'], mean, std) + ', R, G, B and X from 0 to 1'
    )
    cost = multiply_adds(XGenerator().apply, generator, image)
    counted.append(f'g {cost / 1e9:.6f} G')
  elif x != 'none':
    found.append(f'X is fixed: {x}')
  cost = multiply_adds(
    lambda params, stats, image: backbone.apply(
      {'params': params, 'batch_stats': stats}, {'visible': image}, False
    ),
    params['backbone'],
    variables['model_state'][PLAYER]['backbone'],
    image,
  )
  counted.append(f'the network {cost / 1e9:.4g} G')
  height, width = image_size
  found.append(
    f'multiply-adds for an image of {height}x{width}: ' + ', '.join(counted)
  )
  return found


def _check(x: str, gap: str, pooling: str, test_feature: str):
  baseline.check_test_feature(test_feature)
  for name, value, known in (
    ('x', x, KINDS),
    ('gap', gap, GAPS),
    ('pooling', pooling, ('gem', 'average')),
  ):
    if value not in known:
      raise ValueError(f'method.{name} must be one of {known}, not {value!r}')
