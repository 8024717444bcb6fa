"""One optimizer per player: schedule, momentum, coupled decay, group rates.

Synopsis:

  plan = Schedule(0.1, epochs=81, warmup_epochs=10, decay_epochs=(20, 50))
  optimizer = sgd(
    schedule(plan, steps_per_epoch=696), multipliers={'backbone': 0.1}
  )
  state = optimizer.init(params)

Everything is a function of the optimizer's own step count, so that a restored
state continues where it stopped.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Schedule(NamedTuple):
  """A learning rate with warm-up and steps, in epochs.

  AGW and LUPI: `Schedule(0.1, 81, 10, (20, 50))`, i.e. 0.1 (e + 1) / 10 in
  epochs e < 10, then 0.1, 0.01 from epoch 20, 0.001 from epoch 50. BoT and XIV:
  `Schedule(3.5e-4, 120, 10, (39, 69), warmup_start=0.01)`.

  Attributes:
    base_rate: the rate after the warm-up.
    epochs: length of the training.
    warmup_epochs: length W of the warm-up; 0 for none.
    decay_epochs: where the rate is multiplied by `decay_rate`, counted from 0;
      fractions of an epoch are allowed.
    decay_rate: factor of each decay.
    warmup_start: in epoch e < W the rate is multiplied by s + (1 - s) p with
      s = warmup_start and p = (e + 1) / W.
    warmup_by: 'epoch' for that, constant within an epoch, as published; 'step'
      for p growing with each step, which short schedules need.
  """

  base_rate: float
  epochs: float
  warmup_epochs: float = 0.0
  decay_epochs: tuple[float, ...] = ()
  decay_rate: float = 0.1
  warmup_start: float = 0.0
  warmup_by: str = 'epoch'


def total_steps(plan: Schedule, steps_per_epoch: int) -> int:
  """Number of steps in `plan.epochs` epochs, rounded up."""
  return _steps(plan.epochs, steps_per_epoch)


def schedule(plan: Schedule, steps_per_epoch: int) -> optax.Schedule:
  """The learning rate as a function of the step, counted from 0.

  Args:
    plan: the rate in epochs.
    steps_per_epoch: length of an epoch.

  Returns:
    step -> learning rate; usable under `jax.jit`. The rate stays at its last
    value beyond `plan.epochs`.

  Raises:
    ValueError: on an unknown `warmup_by` or an epoch without steps.
  """
  if plan.warmup_by not in ('epoch', 'step'):
    raise ValueError(f"warmup_by is {plan.warmup_by!r}; use 'epoch' or 'step'.")
  if steps_per_epoch < 1:
    raise ValueError(f'steps_per_epoch is {steps_per_epoch}; use at least 1.')
  tick = steps_per_epoch if plan.warmup_by == 'epoch' else 1
  warmup_ticks = plan.warmup_epochs * steps_per_epoch / tick
  boundaries = [_steps(e, steps_per_epoch) for e in plan.decay_epochs]
  # A table holds the factors exactly as Python computes them; a power in
  # float32 would not.
  factors = [plan.decay_rate**i for i in range(len(boundaries) + 1)]

  def rate(step):
    step = jnp.asarray(step)
    progress = jnp.ones(())
    if warmup_ticks:
      progress = jnp.minimum((step // tick + 1) / warmup_ticks, 1)
    passed = sum((step >= b).astype(jnp.int32) for b in boundaries)
    warmup = plan.warmup_start + (1 - plan.warmup_start) * progress
    return plan.base_rate * warmup * jnp.asarray(factors)[passed]

  return rate


def sgd(
  rate: optax.ScalarOrSchedule,
  momentum: float = 0.9,
  nesterov: bool = True,
  weight_decay: float = 5e-4,
  multipliers: Mapping[str, float] | None = None,
) -> optax.GradientTransformation:
  """PyTorch's SGD: b <- m b + g + w p; p <- p - rate (g + w p + m b).

  Without Nesterov's momentum the last step is rate * b.

  Args:
    rate: learning rate or schedule.
    momentum: m.
    nesterov: whether to look ahead.
    weight_decay: w; added to the gradient, on every parameter.
    multipliers: path prefix -> factor on the rate, as in `scale_by_group`.

  Returns:
    The optimizer; its `update` needs `params`.
  """
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.trace(momentum, nesterov),
    scale_by_group(multipliers or {}),
    optax.scale_by_learning_rate(rate),
  )


def adam(
  rate: optax.ScalarOrSchedule,
  b1: float = 0.9,
  b2: float = 0.999,
  weight_decay: float = 0.0,
  multipliers: Mapping[str, float] | None = None,
) -> optax.GradientTransformation:
  """PyTorch's Adam: weight decay is an L2 term in the gradient, not AdamW.

  Args:
    rate: learning rate or schedule.
    b1: decay of the first moment.
    b2: decay of the second moment.
    weight_decay: added to the gradient before the moments.
    multipliers: path prefix -> factor on the rate, as in `scale_by_group`.

  Returns:
    The optimizer; its `update` needs `params`.
  """
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.scale_by_adam(b1, b2),
    scale_by_group(multipliers or {}),
    optax.scale_by_learning_rate(rate),
  )


def scale_by_group(
  multipliers: Mapping[str, float],
) -> optax.GradientTransformation:
  """Multiplies the updates of groups of parameters.

  Args:
    multipliers: path prefix -> factor, e.g. {'backbone': 0.1} or
      {'backbone/stage4': 0.5}; the longest prefix that fits counts, and 1 where
      none does.

  Returns:
    A transformation without state. Its `init` raises ValueError for a prefix
    that no parameter has.
  """
  prefixes = sorted(multipliers, key=len, reverse=True)

  def fits(prefix: str, path: str) -> bool:
    return f'{path}/'.startswith(f'{prefix.strip("/")}/')

  def init(params: Any) -> optax.EmptyState:
    paths = [_path(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
    for prefix in prefixes:
      if not any(fits(prefix, path) for path in paths):
        groups = sorted({path.split('/')[0] for path in paths})
        raise ValueError(
          f'No parameter is in the group {prefix!r}; the top-level groups are '
          f'{", ".join(groups)}.'
        )
    return optax.EmptyState()

  def update(updates, state, params=None):
    del params

    def scale(path, update):
      fitting = (p for p in prefixes if fits(p, _path(path)))
      prefix = next(fitting, None)
      return update if prefix is None else update * multipliers[prefix]

    return jax.tree_util.tree_map_with_path(scale, updates), state

  return optax.GradientTransformation(init, update)


def _steps(epochs: float | int, steps_per_epoch: int) -> int:
  # Rounded first: 0.7 * 10 is a little more than 7 in floating point.
  return math.ceil(round(epochs * steps_per_epoch, 6))


def _path(path: tuple[Any, ...]) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')
