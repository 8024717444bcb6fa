"""The state of training: everything that a checkpoint holds.

Synopsis:

  state = create(method, optimizers, key, batch)
  state.variables['params']['backbone']
"""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax.numpy as jnp
import optax

from jaxreid.method import Batch, Key, Method, Variables


class TrainState(flax.struct.PyTreeNode):
  """Step, parameters, model state and optimizer state, each per player.

  Attributes:
    step: int32 scalar, the number of steps taken; also the data position and
      what the random keys of a step are folded with.
    params: player -> parameters. A player without an optimizer is frozen.
    model_state: player -> batch statistics ({} if it has none).
    opt_state: player -> optax state, for the players that have a loss.
  """

  step: Any  # an array, or its shape or sharding in a tree of those
  params: dict[str, Any]
  model_state: dict[str, Any]
  opt_state: dict[str, Any]

  @property
  def variables(self) -> Variables:
    """Parameters and model state as the functions of a method take them."""
    return {'params': self.params, 'model_state': self.model_state}


def create(
  method: Method,
  optimizers: Mapping[str, optax.GradientTransformation],
  key: Key,
  batch: Batch,
) -> TrainState:
  """The state before the first step.

  Args:
    method: the method to train.
    optimizers: player -> optimizer; exactly the players that have a loss.
    key: for the initial parameters.
    batch: a raw batch, for its shapes.

  Raises:
    ValueError: if players and optimizers do not match.
  """
  if set(optimizers) != set(method.losses):
    raise ValueError(
      f'optimizers are given for {sorted(optimizers)}, but the players with '
      f'a loss are {sorted(method.losses)}'
    )
  variables = method.init(key, batch)
  params = variables['params']
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    model_state={p: variables['model_state'].get(p, {}) for p in params},
    opt_state={p: tx.init(params[p]) for p, tx in optimizers.items()},
  )
