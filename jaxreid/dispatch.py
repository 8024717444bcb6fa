"""Several training steps in one dispatch, where the data lies on the devices.

Synopsis:

  length = choose_length(config, total_steps, resident, platform)
  step = scanned(step) if length > 1 else step
  for last, inputs in dispatches(feed, start, total_steps, length):
    state, metrics = step(state, feed.pixels, inputs, key)

An accelerator may end a small step before the host has asked for the next one.
With `lax.scan` over a few the host asks once; metrics then have an axis of
steps. On CPU that is slower by far: XLA's gradient of a convolution inside a
loop takes many times as long there.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
from jaxtyping import Array

from jaxreid.data.feed import Feed
from jaxreid.train_state import TrainState

# Of 'auto': a run that is to stop does so at the end of a dispatch.
LONGEST = 25

Step = Callable[..., tuple[TrainState, dict[str, Array]]]


def choose_length(
  config: ml_collections.ConfigDict,
  total_steps: int,
  resident: bool,
  platform: str,
) -> int:
  """How many steps a dispatch of the run has.

  A number that divides all intervals at which the host looks at a run, so
  that steps are logged, saved and judged where they would be one by one. With
  `config.steps_per_dispatch=0` the largest up to 25; 1 on CPU, or where the
  host feeds the pixels.

  Args:
    config: of the run.
    total_steps: of the whole schedule.
    resident: whether the pixels lie on the devices.
    platform: of the devices, such as 'cpu'.

  Raises:
    ValueError: if the number that the config asks for cannot be had.
  """
  # Runs from before the field was there have none.
  asked = config.get('steps_per_dispatch', 0)
  intervals = {
    'log_every': config.log_every,
    'checkpoint_every': config.checkpoint_every,
    'the number of steps': total_steps,
  }
  common = math.gcd(*intervals.values())
  if not asked:
    if platform == 'cpu' or not resident:
      return 1
    return max(n for n in range(1, LONGEST + 1) if common % n == 0)
  if asked > 1 and not resident:
    raise ValueError(
      f'steps_per_dispatch={asked} needs the pixels on the devices; set '
      "dataset.residency='device', or steps_per_dispatch=1"
    )
  if common % asked:
    ends = ', '.join(f'{name} ({n})' for name, n in intervals.items())
    raise ValueError(
      f'steps_per_dispatch={asked} must divide {ends}: take a divisor of '
      f'{common}, or 0 to have one chosen'
    )
  return asked


def scanned(step: Step) -> Step:
  """`step` over inputs with a leading axis of steps; so have its metrics.

  The number of steps is that of the inputs.
  """

  def steps(
    state: TrainState, pixels: Array | None, inputs: Any, key: Array
  ) -> tuple[TrainState, dict[str, Array]]:
    return jax.lax.scan(
      lambda state, one: step(state, pixels, one, key), state, inputs
    )

  return steps


def dispatches(
  feed: Feed, start: int, total_steps: int, length: int
) -> Iterator[tuple[int, dict[str, Array]]]:
  """The number of the last step of each dispatch, and its inputs.

  Args:
    feed: of the run.
    start: steps that are done.
    total_steps: of the whole schedule.
    length: steps of a dispatch; fewer are taken at a time where `start`, such
      as of a run that began on another machine, is no multiple of it.
  """
  if length > 1:
    length = math.gcd(length, start)
    inputs = feed.inputs(start, length)
  else:
    inputs = feed.inputs(start)
  for last in range(start + length, total_steps + 1, length):
    yield last, next(inputs)


def split(
  metrics: dict[int, dict[str, Any]],
) -> Iterator[tuple[int, dict[str, float]]]:
  """Step -> metrics of one step each, from those of dispatches.

  Args:
    metrics: last step of a dispatch -> its metrics on the host, with an axis
      of steps where the dispatch was of `scanned`.
  """
  for last, values in metrics.items():
    arrays = {
      name: [float(x) for x in value] if value.ndim else [float(value)]
      for name, value in values.items()
    }
    count = max(map(len, arrays.values()), default=1)
    for i in range(count):
      step = last - count + 1 + i
      yield step, {name: array[i] for name, array in arrays.items()}
