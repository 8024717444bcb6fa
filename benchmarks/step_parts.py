"""The parts of a training step, each a program of its own.

Synopsis:

  seconds = time_parts(config, setup, driver, repeats)   # name -> median
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxreid import experiment
from jaxreid.experiment import Setup

# Seconds since whenever.
Clock = Callable[[], float]


def time_parts(
  config: Any, setup: Setup, driver: Any, repeats: int
) -> dict[str, float]:
  """Medians of the parts of a step, in seconds.

  Args:
    config: of the run.
    setup: of the run.
    driver: the `train_step.Driver` of the run, by whose clock is timed.
    repeats: calls of each part.
  """
  method, state, key = setup.method, driver.state, setup.key
  optimizers = experiment.make_optimizers(config, method, 1)
  inputs = next(setup.feed.inputs(0))
  gather, augment = jax.jit(setup.feed.gather), jax.jit(method.augment)
  raw = gather(setup.feed.pixels, inputs)
  batch = augment(key, raw)
  forward = jax.jit(functools.partial(losses_of, method))
  backward = jax.jit(functools.partial(gradients_of, method))
  update = jax.jit(functools.partial(updated, optimizers))
  grads = backward(state, batch, key)[0]
  runs = {
    'augmentation': lambda: augment(key, raw),
    'forward': lambda: forward(state, batch, key),
    'backward': lambda: backward(state, batch, key),
    'optimizer': lambda: update(state, grads),
    'gather': lambda: gather(setup.feed.pixels, inputs),
  }
  median = {}
  for name, run in runs.items():
    jax.block_until_ready(run())
    median[name] = statistics.median(timed(run, repeats, driver.clock))
  median['backward'] -= median['forward']
  # What the host does, nobody else asking for its cores.
  fetched = timed(lambda: next(driver.inputs), 3 * repeats, driver.clock)
  median['feed'] = statistics.mean(fetched[repeats:]) / driver.length
  median['feed'] += median.pop('gather')
  return median


def losses_of(method: Any, state: Any, batch: Any, key: Any) -> Any:
  """What every loss makes of the batch, without gradients."""
  outputs: dict[str, Any] = {}
  found = []
  for loss in method.losses.values():
    value, aux = loss(state.variables, batch, key, outputs)
    outputs = {**outputs, **aux.outputs}
    found.append((value, aux.metrics, aux.model_state))
  return found


def gradients_of(method: Any, state: Any, batch: Any, key: Any) -> Any:
  """Gradients of every player, and the rest of what its loss gives."""
  outputs: dict[str, Any] = {}
  grads, found = {}, []
  for player, loss in method.losses.items():

    def objective(params, player=player, loss=loss):
      variables = {
        'params': {**state.params, player: params},
        'model_state': state.model_state,
      }
      return loss(variables, batch, key, outputs)  # noqa: B023

    (value, aux), grads[player] = jax.value_and_grad(objective, has_aux=True)(
      state.params[player]
    )
    outputs = {**outputs, **aux.outputs}
    found.append((value, aux.metrics, aux.model_state))
  return grads, found


def updated(optimizers: Any, state: Any, grads: Any) -> Any:
  """Parameters and optimizer states after a step."""
  moved = {}
  for player, optimizer in optimizers.items():
    params = state.params[player]
    updates, opt_state = optimizer.update(
      grads[player], state.opt_state[player], params
    )
    moved[player] = optax.apply_updates(params, updates), opt_state
  return moved


def timed(
  run: Callable[[], Any], repeats: int, clock: Clock = time.perf_counter
) -> list[float]:
  """Seconds of each call, waiting for its results."""
  seconds = []
  for _ in range(repeats):
    start = clock()
    jax.block_until_ready(run())
    seconds.append(clock() - start)
  return seconds
