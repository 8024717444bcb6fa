"""LUPI: learning under privileged intermediate information.

Alehdaghi, Josi, Cruz, Granger, "Visible-Infrared Person Re-Identification
Using Privileged Intermediate Information", 2022.

A third set of images Z, drawn from the visible ones as random mixtures of
their colour channels (Eq. 4), bridges the modalities during training and is
not used at test. Three streams have private first stages; the rest is shared.

  L = L_id + L_tri + lambda L_c                                 (Eq. 7, 8)

Synopsis:

  method = lupi(395, resnet_stages('resnet50', nonlocal_blocks=True))
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxreid import losses
from jaxreid.augment import color
from jaxreid.augment.view import training_view
from jaxreid.method import Aux, Batch, Key, Method, Variables
from jaxreid.methods import baseline
from jaxreid.methods.baseline import StageFactory
from jaxreid.models.streams import fold

STREAMS = ('visible', 'infrared', 'intermediate')
INTERMEDIATES = ('random_gray', 'gray', 'none')
COLOR_FREE = ('threshold', 'mse')


def lupi(
  num_classes: int,
  stages: Sequence[StageFactory],
  *,
  split: int = 2,
  pooling: str = 'gem',
  intermediate: str = 'random_gray',
  independent_views: bool = True,
  margin: float = 0.3,
  triplet_weight: float = 1.0,
  triplet_reduction: str = 'sum',
  color_free: str = 'threshold',
  color_free_weight: float = 10.0,
  color_free_threshold: float = 0.5,
  kl_weight: float = 0.5,
  kl_order: str = 'z_v',
  label_smoothing: float = 0.0,
  padding: int = 10,
  erasing: float = 0.5,
  test_feature: str = 'neck',
) -> Method:
  """The method of the paper; every argument's default is the paper's value.

  Args:
    num_classes: identities in training.
    stages: backbone as a list of stage factories.
    split: stages private to a stream; 2 is the stem and the first residual
      stage, which fits the parameter counts of table 4.
    pooling: 'gem' or 'average'.
    intermediate: Z is 'random_gray' (Eq. 4), the fixed 'gray', or 'none': two
      streams, L_tri = T(V, I, I) + T(I, V, V) and no L_c.
    independent_views: Z has crop, flip and erasing of its own; if False it
      shares those of the visible image it was made from.
    margin: of the triplet.
    triplet_weight: of L_tri; 0 leaves it out.
    triplet_reduction: 'sum' of the three terms (Eq. 5) or their 'mean' (as
      released).
    color_free: 'threshold' (Eq. 6) or 'mse' (as released).
    color_free_weight: lambda of Eq. 7; 0 leaves L_c out.
    color_free_threshold: of Eq. 6.
    kl_weight: alpha_c of Eq. 6.
    kl_order: 'z_v' for KL(p_z || p_v), 'v_z' for the reverse.
    label_smoothing: of the identity loss.
    padding: zero pixels around an image before its random crop.
    erasing: probability of random erasing per image.
    test_feature: 'neck' (after the BNNeck) or 'pooled' (before it).

  Raises:
    ValueError: on an option that does not exist.
  """
  _check(intermediate, color_free, triplet_reduction, kl_order)
  baseline.check_test_feature(test_feature)
  streams = STREAMS[:2] if intermediate == 'none' else STREAMS
  network = baseline.make_network(num_classes, stages, streams, split, pooling)

  def augment(key: Key, batch: Batch) -> Batch:
    gray_key, visible_key, infrared_key, own_key = jax.random.split(key, 4)
    z_key = own_key if independent_views else visible_key
    images = {
      'visible': (visible_key, batch['visible']),
      'infrared': (infrared_key, batch['infrared']),
    }
    if intermediate == 'gray':
      images['intermediate'] = (z_key, color.fixed_gray(batch['visible']))
    elif intermediate == 'random_gray':
      z = color.random_gray(gray_key, batch['visible'])
      images['intermediate'] = (z_key, z)
    views = {
      name: training_view(k, pixels, padding=padding, erasing=erasing)
      for name, (k, pixels) in images.items()
    }
    return {**views, 'label': batch['label']}

  def triplet_loss(f: Mapping[str, Array], labels: Array) -> Array:
    if intermediate != 'none':
      return losses.cyclic_triplet(
        *(f[s] for s in streams), labels, margin, reduction=triplet_reduction
      )
    v, t = f['visible'], f['infrared']
    total = losses.batch_hard_triplet(
      v, t, t, labels, margin
    ) + losses.batch_hard_triplet(t, v, v, labels, margin)
    return total if triplet_reduction == 'sum' else total / 2

  def color_free_loss(f: Mapping[str, Array], logits: Mapping[str, Array]):
    if intermediate == 'none':
      return jnp.zeros(len(f['visible']))
    f_v, f_z = f['visible'], f['intermediate']
    if color_free == 'mse':
      return losses.color_free_mse(f_v, f_z)
    return losses.color_free(
      f_v,
      f_z,
      logits['visible'],
      logits['intermediate'],
      color_free_threshold,
      kl_weight,
      kl_order,
    )

  def loss(variables: Variables, batch: Batch, key: Key, outputs: Any):
    del key, outputs
    output, model_state = baseline.forward(network, variables, batch, streams)
    # Folded, not concatenated: rows stay on the device that computed them.
    logits = fold([output.logits[s] for s in streams])
    labels = jnp.repeat(batch['label'], len(streams))
    l_id = losses.identity_loss(logits, labels, label_smoothing).mean()
    l_tri = triplet_loss(output.pooled, batch['label']).mean()
    l_c = color_free_loss(output.pooled, output.logits).mean()
    metrics = {
      'identity': l_id,
      'triplet': l_tri,
      'color_free': l_c,
      'accuracy': (logits.argmax(-1) == labels).mean(),
    }
    total = l_id + triplet_weight * l_tri + color_free_weight * l_c
    return total, Aux(metrics, model_state, embeddings=output.pooled)

  return Method(
    init=baseline.make_init(network, augment, streams),
    augment=augment,
    losses={baseline.PLAYER: loss},
    embed=baseline.make_embed(network, streams, test_feature),
  )


def _check(intermediate: str, color_free: str, reduction: str, kl_order: str):
  for name, value, known in (
    ('intermediate', intermediate, INTERMEDIATES),
    ('color_free', color_free, COLOR_FREE),
    ('triplet_reduction', reduction, ('sum', 'mean')),
    ('kl_order', kl_order, ('z_v', 'v_z')),
  ):
    if value not in known:
      raise ValueError(f'method.{name} must be one of {known}, not {value!r}')
