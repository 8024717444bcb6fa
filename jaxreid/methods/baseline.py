"""The baseline of every paper: identity loss and a triplet loss.

With two streams, non-local blocks and the weighted regularised triplet this
is AGW (Ye et al., "Deep Learning for Person Re-identification: A Survey and
Outlook", 2021); with one modality it is a single-stream network such as the
columns V, I and G of LUPI's table 3.

Synopsis:

  method = baseline(395, resnet_stages('resnet50', nonlocal_blocks=True))
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from jaxreid import losses
from jaxreid.augment import color
from jaxreid.augment.view import training_view
from jaxreid.method import Aux, Batch, Key, Method, Variables
from jaxreid.models.head import Head
from jaxreid.models.streams import EmbeddingNetwork, MultiStream, fold

PLAYER = 'backbone'
TRIPLETS = ('weighted_regularized', 'batch_hard', 'none')
StageFactory = Callable[[str], nn.Module]


def baseline(
  num_classes: int,
  stages: Sequence[StageFactory],
  *,
  modalities: Sequence[str] = ('visible', 'infrared'),
  split: int = 1,
  pooling: str = 'gem',
  triplet: str = 'weighted_regularized',
  margin: float = 0.3,
  label_smoothing: float = 0.0,
  identity_weight: float = 1.0,
  padding: int = 10,
  erasing: float = 0.0,
  test_feature: str = 'neck',
) -> Method:
  """Identity loss after the BNNeck plus a triplet loss before it.

  Args:
    num_classes: identities in training.
    stages: backbone as a list of stage factories.
    modalities: trained on, of 'visible', 'infrared' and 'gray' (the fixed
      gray version of the visible images). With one modality the network has
      one stream, which every test image passes.
    split: the number of stages private to a stream; AGW's 1 is the stem.
    pooling: 'gem' or 'average'.
    triplet: 'weighted_regularized' (AGW) or 'batch_hard', over all images of
      the batch together; 'none' leaves the identity loss alone.
    margin: of the batch-hard triplet.
    label_smoothing: of the identity loss.
    identity_weight: of the identity loss; the triplet's weight is 1.
    padding: zero pixels around an image before its random crop.
    erasing: probability of random erasing.
    test_feature: 'neck' (after the BNNeck) or 'pooled' (before it).

  Raises:
    ValueError: on a modality, split, pooling, triplet or test feature that
      does not exist.
  """
  _check(modalities, triplet, test_feature)
  # One stream has nothing to be private from.
  split = split if len(modalities) > 1 else 0
  network = make_network(num_classes, stages, modalities, split, pooling)

  def augment(key: Key, batch: Batch) -> Batch:
    views = {}
    for name, view_key in zip(
      modalities, jax.random.split(key, len(modalities)), strict=True
    ):
      source = 'visible' if name == 'gray' else name
      images = batch[source]
      images = color.fixed_gray(images) if name == 'gray' else images
      views[name] = training_view(
        view_key, images, padding=padding, erasing=erasing
      )
    return {**views, 'label': batch['label']}

  def loss(variables: Variables, batch: Batch, key: Key, outputs: Any):
    del outputs
    output, model_state = forward(network, variables, batch, modalities, key)
    # Folded, not concatenated: rows stay on the device that computed them.
    labels = jnp.repeat(batch['label'], len(modalities))
    pooled = fold([output.pooled[m] for m in modalities])
    logits = fold([output.logits[m] for m in modalities])
    identity = losses.identity_loss(logits, labels, label_smoothing).mean()
    metrics = {
      'identity': identity,
      'accuracy': (logits.argmax(-1) == labels).mean(),
    }
    aux = Aux(metrics, model_state, embeddings=output.pooled)
    weighted = identity_weight * identity
    if triplet == 'none':
      return weighted, aux
    if triplet == 'weighted_regularized':
      hard = losses.weighted_regularized_triplet(pooled, labels).mean()
    else:
      hard = losses.batch_hard_triplet(
        pooled, pooled, pooled, labels, margin
      ).mean()
    metrics['triplet'] = hard
    return weighted + hard, aux

  return Method(
    init=make_init(network, augment, modalities),
    augment=augment,
    losses={PLAYER: loss},
    embed=make_embed(network, modalities, test_feature),
  )


def make_network(
  num_classes: int,
  stages: Sequence[StageFactory],
  streams: Sequence[str],
  split: int,
  pooling: str,
) -> EmbeddingNetwork:
  """Streams with `split` private stages, pooling, BNNeck and classifier.

  Raises:
    ValueError: on a split or pooling that does not exist.
  """
  if not 0 <= split <= len(stages):
    raise ValueError(f'method.split must be 0 to {len(stages)}, not {split}')
  if pooling not in ('gem', 'average'):
    raise ValueError(
      f"method.pooling must be 'gem' or 'average', not {pooling!r}"
    )
  return EmbeddingNetwork(
    MultiStream(tuple(stages), split, tuple(streams)),
    Head(num_classes, pooling),
  )


def make_init(
  network: EmbeddingNetwork,
  augment: Callable[[Key, Batch], Batch],
  streams: Sequence[str],
) -> Callable[[Key, Batch], Variables]:
  """`Method.init` of a method whose one player is `network`."""

  def init(key: Key, batch: Batch) -> Variables:
    images = augment(key, batch)
    variables = network.init(key, {s: images[s] for s in streams}, train=False)
    return {
      'params': {PLAYER: variables['params']},
      'model_state': {PLAYER: variables['batch_stats']},
    }

  return init


def forward(
  network: EmbeddingNetwork,
  variables: Variables,
  batch: Batch,
  streams: Sequence[str],
  key: Key | None = None,
) -> tuple[Any, Any]:
  """One training forward over all streams: (output, new batch statistics).

  The key is for a backbone that skips branches at random (a Swin's
  `drop_path`).
  """
  output, updated = network.apply(
    {
      'params': variables['params'][PLAYER],
      'batch_stats': variables['model_state'][PLAYER],
    },
    {s: batch[s] for s in streams},
    train=True,
    mutable=['batch_stats'],
    rngs=None if key is None else {'drop_path': key},
  )
  return output, updated['batch_stats']


def make_embed(
  network: EmbeddingNetwork, streams: Sequence[str], test_feature: str
) -> Callable[[Variables, Array, str], Array]:
  """`Method.embed`: which stream an image passes, and which feature counts.

  A network of one stream sends everything through it. Otherwise an image
  passes the stream of its modality; where there is none, a gray one passes
  'intermediate' or else 'visible', a visible one 'gray'.
  """
  choices = {
    'visible': ('visible', 'gray'),
    'infrared': ('infrared',),
    'gray': ('gray', 'intermediate', 'visible'),
  }

  def stream_of(modality: str) -> str:
    if modality not in choices:
      raise ValueError(
        f"modality must be 'visible', 'infrared' or 'gray', not {modality!r}"
      )
    if len(streams) == 1:
      return streams[0]
    return next(s for s in choices[modality] if s in streams)

  def embed(
    variables: Variables, images: UInt8[Array, 'b h w 3'], modality: str
  ) -> Float[Array, 'b 1 d']:
    stream = stream_of(modality)
    pixels = color.fixed_gray(images) if modality == 'gray' else images
    output = network.apply(
      {
        'params': variables['params'][PLAYER],
        'batch_stats': variables['model_state'][PLAYER],
      },
      {stream: color.normalize(pixels)},
      train=False,
    )
    feature = getattr(output, test_feature)[stream]
    norm = jnp.linalg.norm(feature, axis=-1, keepdims=True)
    return (feature / jnp.maximum(norm, 1e-12))[:, None, :]

  return embed


def check_test_feature(test_feature: str):
  """Raises ValueError unless the feature is 'neck' or 'pooled'."""
  if test_feature not in ('neck', 'pooled'):
    raise ValueError(
      f"method.test_feature must be 'neck' or 'pooled', not {test_feature!r}"
    )


def _check(modalities: Sequence[str], triplet: str, test_feature: str):
  check_test_feature(test_feature)
  if triplet not in TRIPLETS:
    raise ValueError(f'method.triplet must be one of {TRIPLETS}, not {triplet}')
  known = {'visible', 'infrared', 'gray'}
  if not modalities or set(modalities) - known:
    raise ValueError(
      f'method.modalities must be some of {sorted(known)}, not {modalities}'
    )
  if len(modalities) > 1 and 'infrared' not in modalities:
    raise ValueError(
      'method.modalities must have infrared if there are several (no stream '
      f'could embed an infrared image), not {modalities}'
    )
