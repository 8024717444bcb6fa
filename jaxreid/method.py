"""The interface that every method fills: a handful of pure functions.

Synopsis:

  method = lupi(num_classes=395, stages=resnet_stages('resnet50'))
  variables = method.init(key, batch)
  batch = method.augment(key, batch)
  loss, aux = method.losses['backbone'](variables, batch, key, {})
  features = method.embed(variables, images, 'infrared')

A *player* is a component with its own optimizer; most methods have one,
'backbone'. The contract that `train_step` keeps for all of them:

* a loss is differentiated with respect to its own player's parameters only;
* a loss returns its own player's new model state and no other;
* players run in the order of the dictionary, each seeing the updated
  parameters and the `outputs` of those before it;
* every player has an entry in `model_state` from the start ({} if it has
  none), so that the tree of the training state never changes.

A player in `params` without a loss is frozen.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxtyping import Array

Key = Array
# 'visible' and 'infrared': uint8 [N, H, W, 3]; 'label': int32 [N]. Row i of
# both modalities is the same person. N = identities x images per identity.
Batch = dict[str, Array]
# {'params': {player: tree}, 'model_state': {player: tree}}
Variables = dict[str, dict[str, Any]]


class Aux(NamedTuple):
  """What a loss returns beside its scalar.

  Attributes:
    metrics: scalars to log, by name.
    model_state: this player's new model state (batch statistics).
    outputs: arrays handed to the later players of the same step.
    embeddings: modality -> [N, D], for terms added inside the objective.
  """

  metrics: dict[str, Array]
  model_state: dict[str, Any] = {}  # noqa: RUF012 never written to
  outputs: dict[str, Array] = {}  # noqa: RUF012
  embeddings: dict[str, Array] = {}  # noqa: RUF012


LossFn = Callable[
  [Variables, Batch, Key, Mapping[str, Array]], tuple[Array, Aux]
]


class Method(NamedTuple):
  """A method: how it starts, augments, learns and embeds.

  Attributes:
    init: (key, raw batch) -> variables.
    augment: (key, raw batch) -> float batch; once per step, before the
      players, not differentiated. May add images, e.g. 'intermediate'.
    losses: player -> loss, in the order in which the players move.
    embed: (variables, uint8 images [B, H, W, 3], modality) ->
      float [B, modalities, D], each vector of length 1. Normalises the pixels
      inside. Modality is 'visible', 'infrared' or 'gray' (the gray version of
      visible pixels); raises ValueError on any other.
    views: (variables, uint8 images [B, H, W, 3], modality) -> name -> float
      [B, H, W, 3], what the method makes of them, as pixels on the scale
      0..255, not clipped; {} if nothing. Drawn after training.
    facts: (variables, (height, width)) -> sentences about what was learnt,
      printed and kept with the results.
  """

  init: Callable[[Key, Batch], Variables]
  augment: Callable[[Key, Batch], Batch]
  losses: dict[str, LossFn]
  embed: Callable[[Variables, Array, str], Array]
  views: Callable[[Variables, Array, str], dict[str, Array]] | None = None
  facts: Callable[[Variables, tuple[int, int]], list[str]] | None = None
