"""One training step: every player moves once, in turn.

Synopsis:

  step = make_train_step(method, {'backbone': optimizer})
  state, metrics = jax.jit(step, donate_argnums=0)(state, batch, key)
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from jaxtyping import Array

from jaxreid.method import Aux, Batch, Key, Method
from jaxreid.train_state import TrainState

TrainStep = Callable[
  [TrainState, Batch, Key], tuple[TrainState, dict[str, Array]]
]


def make_train_step(
  method: Method, optimizers: Mapping[str, optax.GradientTransformation]
) -> TrainStep:
  """The alternating update over the players of `method`.

  The four rules of `jaxreid.method` hold here by construction: a loss sees
  gradients of its own player only, writes its own model state only, comes in
  the order of the dictionary, and the tree of the state never changes.

  Returns:
    (state, raw batch, key) -> (new state, metrics). The key is that of the
    whole run: the step folds its own number into it. Raises ValueError if a
    loss returns a model state of another structure than its player has.
  """

  def train_step(
    state: TrainState, batch: Batch, key: Key
  ) -> tuple[TrainState, dict[str, Array]]:
    key = jax.random.fold_in(key, state.step)
    augment_key, *player_keys = jax.random.split(key, 1 + len(method.losses))
    batch = method.augment(augment_key, batch)
    outputs: dict[str, Array] = {}
    metrics: dict[str, Array] = {}
    for player_key, player in zip(player_keys, method.losses, strict=True):
      state, aux = _move(
        method, optimizers[player], player, state, batch, player_key, outputs
      )
      outputs = {**outputs, **aux.outputs}
      metrics = {**metrics, **aux.metrics}
    return state.replace(step=state.step + 1), metrics

  return train_step


def _move(
  method: Method,
  optimizer: optax.GradientTransformation,
  player: str,
  state: TrainState,
  batch: Batch,
  key: Key,
  outputs: Mapping[str, Array],
) -> tuple[TrainState, Aux]:
  def objective(params):
    variables = {
      'params': {**state.params, player: params},
      'model_state': state.model_state,
    }
    # New dictionaries: what a loss may write into them is lost, as it should.
    variables, own_batch, given = jax.tree.map(
      lambda x: x, (variables, batch, dict(outputs))
    )
    return method.losses[player](variables, own_batch, key, given)

  params = state.params[player]
  (loss, aux), grads = jax.value_and_grad(objective, has_aux=True)(params)
  _check_structure(player, aux.model_state, state.model_state[player])
  updates, opt_state = optimizer.update(grads, state.opt_state[player], params)
  moved = state.replace(
    params={**state.params, player: optax.apply_updates(params, updates)},
    model_state={**state.model_state, player: aux.model_state},
    opt_state={**state.opt_state, player: opt_state},
  )
  name = 'loss' if len(method.losses) == 1 else f'{player}_loss'
  return moved, aux._replace(metrics={name: loss, **aux.metrics})


def _check_structure(player: str, new: Any, old: Any):
  found: Any = jax.tree.structure(new)
  expected: Any = jax.tree.structure(old)
  if found != expected:
    raise ValueError(
      f'the loss of {player!r} must return the model state of {player!r} '
      f'alone and whole in Aux.model_state: {expected}, not {found}'
    )
