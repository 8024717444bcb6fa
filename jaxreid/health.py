"""Is a run still worth its time? Numbers that are not finite, GANs that died.

Synopsis:

  unread[step] = metrics                   # each step, on the devices
  values, said = read(unread, checkpoints, watch)    # of all, now and then
  check_finite(state, values, checkpoints)

Metrics stay on the devices until somebody wants them, so that no step waits
for the host; then every step's are looked at.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxreid import dispatch
from jaxreid.train_state import TrainState


class RunError(RuntimeError):
  """A run cannot go on; the message says why and what to do."""


class NonFiniteLossError(RunError):
  """The loss became infinite or not a number; the message says where."""


class CollapseWatch:
  """Tells when a discriminator has been right, wrong or blind for too long.

  A discriminator that sees through every image leaves its generator without a
  direction to improve in: the loss goes on falling and the images stay bad.
  One that is always wrong does not learn, or learns the opposite. One that
  calls everything fake, or everything real, is right about half and tells
  nothing apart.

  Looks at every metric `d_..._accuracy`, the share of right decisions of a
  step, and at the shares `..._accuracy_real` and `..._accuracy_fake` that it
  is the mean of.

  One sentence for each streak, when it is `patience` steps long; a single
  step in between ends a streak.
  """

  def __init__(self, patience: int = 100, margin: float = 0.005):
    """Starts without a streak.

    Args:
      patience: steps in a row.
      margin: a share within this of 1 (or 0) is all (or nothing); of a
        thousand patches, a few may be otherwise.
    """
    self._patience = patience
    self._margin = margin
    # metric -> (verdict, first step, steps)
    self._streaks: dict[str, tuple[str, int, int]] = {}

  def __call__(self, step: int, metrics: Mapping[str, float]) -> list[str]:
    """Looks at one step; steps have to come in their order.

    Returns:
      Sentences, mostly none.
    """
    said = []
    for name, accuracy in metrics.items():
      if not (name.startswith('d_') and name.endswith('_accuracy')):
        continue
      real, fake = (
        float(metrics.get(f'{name}_{part}', accuracy))
        for part in ('real', 'fake')
      )
      verdict = self._judge(float(accuracy), real, fake)
      before, first, steps = self._streaks.get(name, ('', step, 0))
      if verdict != before:
        first, steps = step, 0
      self._streaks[name] = (verdict, first, steps + 1)
      if verdict and steps + 1 == self._patience:
        said.append(_sentence(name, verdict, first, step))
    return said

  def _judge(self, accuracy: float, real: float, fake: float) -> str:
    most = 1 - self._margin
    if accuracy >= most:
      return 'right'
    if accuracy <= self._margin:
      return 'wrong'
    if fake - real >= most:
      return 'fake'
    return 'real' if real - fake >= most else ''


def _sentence(name: str, verdict: str, first: int, last: int) -> str:
  who = name.removesuffix('_accuracy')
  if verdict == 'right':
    return (
      f'the discriminator {who} has won every batch from step {first} to '
      f'{last} ({name} 1): the generator may learn nothing from it any more; '
      'look at the pictures, and give the discriminator a lower rate or less '
      'to see'
    )
  if verdict == 'wrong':
    return (
      f'the discriminator {who} was wrong about every image from step {first} '
      f'to {last} ({name} 0): it does not learn; give it a higher rate'
    )
  return (
    f'the discriminator {who} has called every image {verdict} from step '
    f'{first} to {last} ({name}_{verdict} 1): it tells nothing apart, and the '
    'generator learns nothing from it; look at the pictures, and give the '
    'discriminator another rate or a larger width'
  )


def read(
  unread: dict[int, Mapping[str, Array]],
  checkpoints: Any,
  watch: CollapseWatch,
) -> tuple[dict[int, dict[str, float]], list[str]]:
  """Fetches the metrics of all steps since the last call; empties `unread`.

  Args:
    unread: step -> metrics on the devices; last step -> those of all steps of
      a dispatch, along an axis.
    checkpoints: of the run, for the message.
    watch: is shown every step.

  Returns:
    Step -> its metrics, and what the watch says.

  Raises:
    NonFiniteLossError: at the first step that is not finite.
  """
  found: dict[int, dict[str, float]] = {}
  said = []
  for step, values in dispatch.split(jax.device_get(unread)):
    if not all(np.isfinite(value) for value in values.values()):
      raise _not_finite(f'step {step} is not finite', values, checkpoints)
    said += watch(step, values)
    found[step] = values
  unread.clear()
  return found, said


def check_finite(
  state: TrainState, values: Mapping[str, float], checkpoints: Any
):
  """Refuses to save what a step with a finite loss may have left behind.

  Raises:
    NonFiniteLossError: if a parameter or statistic is not finite.
  """
  if not _all_finite(state.variables):
    what = f'step {int(state.step)} left parameters that are not finite'
    raise _not_finite(what, values, checkpoints)


@jax.jit
def _all_finite(tree: Any) -> Array:
  return jnp.all(
    jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)])
  )


def _not_finite(
  what: str, values: Mapping[str, float], checkpoints: Any
) -> NonFiniteLossError:
  checkpoints.wait_until_finished()
  good = checkpoints.latest_step()
  last = (
    f'checkpoint is {checkpoints.directory / str(good)}'
    if good is not None
    else 'state is the start, no checkpoint was saved yet'
  )
  numbers = ', '.join(f'{name} {value:.4g}' for name, value in values.items())
  return NonFiniteLossError(
    f'{what}: {numbers}; the last good {last}; a lower '
    'schedule.base_rate or a longer warm-up may help'
  )
