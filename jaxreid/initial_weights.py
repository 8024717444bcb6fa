"""The weights that a run starts from, where its config names a file.

Synopsis:

  weights = read_weights(config, shapes)   # None if the config names none
  state = fill(state, weights)

`config.backbone.pretrained` holds the stages of an ImageNet network,
`config.weights` a whole network that others released.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_collections

from jaxreid.method import Variables
from jaxreid.methods import baseline
from jaxreid.models import pretrained
from jaxreid.train_state import TrainState


class InitialWeights(NamedTuple):
  """A file of weights, read and found to fit.

  Attributes:
    source: for the results: 'field' of the config, 'file' and 'sha256'.
    fill: {'params', 'batch_stats'} of an `EmbeddingNetwork` -> the same with
      the weights.
  """

  source: dict[str, str]
  fill: Callable[[Mapping[str, Any]], dict[str, Any]]


def read_weights(
  config: ml_collections.ConfigDict, shapes: Variables
) -> InitialWeights | None:
  """Reads the file that the config names and tries it on the network.

  Args:
    config: of the run.
    shapes: of the method's variables, whatever the number of classes.

  Returns:
    None if the config names no file.

  Raises:
    ValueError: naming the field, if there is no such file, it cannot be read,
      or does not fit.
  """
  field, path = 'weights', config.weights
  if not path:
    field, path = 'backbone.pretrained', config.backbone.pretrained
  if not path:
    return None
  try:
    tensors = pretrained.load(path)
    if field == 'weights':
      options = config.backbone.to_dict()
      pretrained.check_network(_network(shapes), tensors, options)
      fill = functools.partial(
        pretrained.fill_network, state_dict=tensors, backbone=options
      )
    else:
      converted = pretrained.convert(tensors, config.backbone.name)
      fill = functools.partial(pretrained.fill_stages, converted=converted)
      fill(_network(shapes))
    source = {
      'field': field,
      'file': str(path),
      'sha256': pretrained.checksum(path),
    }
  except (ValueError, OSError, ImportError) as error:
    raise ValueError(f'{field}: {error}') from error
  return InitialWeights(source, fill)


def fill(state: TrainState, weights: InitialWeights) -> TrainState:
  """`state` with the weights in place of its network's."""
  player = baseline.PLAYER
  filled = weights.fill(_network(state.variables))
  return state.replace(
    params={**state.params, player: filled['params']},
    model_state={**state.model_state, player: filled['batch_stats']},
  )


def _network(variables: Variables) -> dict[str, Any]:
  player = baseline.PLAYER
  return {
    'params': variables['params'][player],
    'batch_stats': variables['model_state'][player],
  }
