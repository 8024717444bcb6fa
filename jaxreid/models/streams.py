"""Streams of modalities with private first stages and shared later ones.

Synopsis:

  network = EmbeddingNetwork(
    MultiStream(
      resnet_stages('resnet50'),
      split=2,
      streams=('visible', 'infrared', 'intermediate'),
    ),
    Head(num_classes=395),
  )
  variables = network.init(key, images, train=False)  # images of all streams
  output, updates = network.apply(
    variables, images, train=True, mutable=['batch_stats']
  )
  output.pooled['visible']  # [N, C]
  network.apply(variables, {'infrared': image}, train=False)  # at test

Between the private and the shared stages, the feature maps of S streams with
N images each are folded into one batch, row n * S + s being image n of stream
s. So shared BatchNorm sees all modalities together, and a batch sharded over
devices stays where it is (concatenated streams would have to move).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxreid.models.head import Head


class MultiStream(nn.Module):
  """A backbone whose first stages exist once per stream.

  Private stages are named '{stream}_stage{i}', shared ones 'stage{i}'.

  Attributes:
    stages: factories from a module name to a stage, as `resnet_stages` gives.
    split: how many of them are private: 0 (one network for all) to
      len(stages) (nothing shared).
    streams: names of the streams, in the order of folding. With split 0 any
      other name is accepted, too, after these, in alphabetic order.
  """

  stages: Sequence[Callable[[str], nn.Module]]
  split: int
  streams: Sequence[str]

  @nn.compact
  def __call__(
    self, images: Mapping[str, Float[Array, 'n H W 3']], train: bool
  ) -> list[Float[Array, '...']]:
    """Applies all stages.

    Args:
      images: stream -> [N, H, W, 3], for any of the streams; all of them when
        parameters are initialised.
      train: as in `BatchNorm`.

    Returns:
      The folded output [N * S, h, w, C] of every shared stage in order; of
      the last private stage if none is shared.

    Raises:
      ValueError: on an impossible split, no image, an unknown stream, or a
        stream missing at initialisation.
    """
    self._check(images)
    maps = []
    for stream in stream_order(self.streams, images):
      x = images[stream]
      for i in range(self.split):
        x = self.stages[i](f'{stream}_stage{i}')(x, train)
      maps.append(x)
    x = fold(maps)
    outputs = []
    for i in range(self.split, len(self.stages)):
      x = self.stages[i](f'stage{i}')(x, train)
      outputs.append(x)
    return outputs or [x]

  def _check(self, images: Mapping[str, Array]) -> None:
    if not 0 <= self.split <= len(self.stages):
      raise ValueError(
        f'split is {self.split}, but the backbone has {len(self.stages)} '
        f'stages; use 0 to {len(self.stages)}.'
      )
    if not images:
      raise ValueError('No images were given.')
    unknown = sorted(set(images) - set(self.streams))
    missing = sorted(set(self.streams) - set(images))
    if self.split and unknown:
      raise ValueError(
        f'Unknown stream {", ".join(unknown)}: private stages exist for '
        f'{", ".join(self.streams)}.'
      )
    if self.split and missing and self.is_initializing():
      raise ValueError(
        f'Initialise with images of every stream; {", ".join(missing)} missing.'
      )


class NetworkOutput(NamedTuple):
  """What an `EmbeddingNetwork` makes of N images per stream.

  Attributes:
    feature_maps: folded output [N * S, h, w, C] of every shared stage; `unfold`
      separates the streams.
    pooled: stream -> [N, C], before the BNNeck.
    neck: stream -> [N, C], after it.
    logits: stream -> [N, classes].
  """

  feature_maps: tuple[Float[Array, '...'], ...]
  pooled: dict[str, Float[Array, 'n c']]
  neck: dict[str, Float[Array, 'n c']]
  logits: dict[str, Float[Array, 'n k']]


class EmbeddingNetwork(nn.Module):
  """A backbone with one head for all its streams.

  Parameters lie under 'backbone' and 'head'.

  Attributes:
    backbone: the streams and their stages.
    head: applied to the last feature map, all streams in one batch.
  """

  backbone: MultiStream
  head: Head

  def __call__(
    self, images: Mapping[str, Float[Array, 'n H W 3']], train: bool
  ) -> NetworkOutput:
    """Embeds and classifies normalised images.

    Args:
      images: stream -> [N, H, W, 3], as in `MultiStream`.
      train: as in `BatchNorm`; True needs `mutable=['batch_stats']`.

    Returns:
      A `NetworkOutput` with the streams that were given.

    Raises:
      ValueError: as `MultiStream` and `Head` do.
    """
    feature_maps = tuple(self.backbone(images, train))
    output = self.head(feature_maps[-1], train)
    order = stream_order(self.backbone.streams, images)
    return NetworkOutput(
      feature_maps,
      unfold(output.pooled, order),
      unfold(output.neck, order),
      unfold(output.logits, order),
    )


def stream_order(streams: Iterable[str], given: Iterable[str]) -> list[str]:
  """The order in which given streams are folded.

  A mapping's own order is of no use: `jax.jit` sorts it.

  Args:
    streams: the network's streams, in order.
    given: names of the images given.

  Returns:
    The given names: those of the network first, in its order, then the rest.
  """
  known = [stream for stream in streams if stream in set(given)]
  return known + sorted(set(given) - set(known))


def fold(maps: Sequence[Float[Array, '...']]) -> Float[Array, '...']:
  """Folds S arrays [N, ...] into [N * S, ...], row n * S + s from maps[s]."""
  stacked = jnp.stack(maps, axis=1)
  return stacked.reshape(-1, *stacked.shape[2:])


def unfold(
  folded: Float[Array, '...'], streams: Sequence[str]
) -> dict[str, Float[Array, '...']]:
  """Undoes `fold`.

  Args:
    folded: [N * S, ...].
    streams: the S names, in the order of folding.

  Returns:
    stream -> [N, ...].
  """
  stacked = folded.reshape(-1, len(streams), *folded.shape[1:])
  return {stream: stacked[:, s] for s, stream in enumerate(streams)}


def count_parameters(params: Any) -> int:
  """Number of scalars in a tree of arrays, or of the shapes of arrays.

  What a network uses at test is counted by leaving out of the tree what it
  does not, such as the classifier and the private stages of a stream that
  only training has.

  Args:
    params: tree of anything that has a `shape`.

  Returns:
    The sum of the sizes.
  """
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
