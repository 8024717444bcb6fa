"""What a watch says of a GAN, and when."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid import health


def told(watch, accuracies, name='d_infrared_accuracy', start=1):
  """The steps at which the watch speaks, with its sentences."""
  found = []
  for step, value in enumerate(accuracies, start):
    found += [(step, said) for said in watch(step, {name: value, 'loss': 1.0})]
  return found


def test_a_streak_is_told_once_when_it_is_long_enough():
  watch = health.CollapseWatch(patience=5)
  found = told(watch, [0.5, *[1.0] * 20])
  assert [step for step, _ in found] == [6]
  assert 'd_infrared has won every batch from step 2 to 6' in found[0][1]


def test_every_streak_is_told():
  watch = health.CollapseWatch(patience=3)
  found = told(watch, [*[1.0] * 4, 0.9, *[0.998] * 4, *[0.0] * 3, 1.0])
  assert [step for step, _ in found] == [3, 8, 12]
  assert 'was wrong about every image from step 10 to 12' in found[2][1]


def test_one_step_in_between_ends_a_streak():
  assert not told(health.CollapseWatch(patience=3), [1.0, 1.0, 0.96] * 9)


def test_a_discriminator_that_guesses_is_left_alone():
  assert not told(health.CollapseWatch(patience=2), [0.5] * 50)


@pytest.mark.parametrize('verdict', ['fake', 'real'])
def test_a_discriminator_that_calls_all_the_same_is_told(verdict):
  watch = health.CollapseWatch(patience=4)
  other = {'fake': 'real', 'real': 'fake'}[verdict]
  name = 'd_infrared_accuracy'
  found = []
  # One step in between at which it told a few apart.
  for step, share in enumerate([0.0, 0.0, 0.0, 0.02, *[0.002] * 9], 1):
    metrics = {f'{name}_{verdict}': 1.0, f'{name}_{other}': share}
    found += [
      (step, said) for said in watch(step, {name: (1 + share) / 2, **metrics})
    ]
  ((step, said),) = found
  assert step == 8
  assert f'd_infrared has called every image {verdict} from step 5 to 8' in said


def test_discriminators_are_watched_apart():
  watch = health.CollapseWatch(patience=4)
  said = []
  for step in range(1, 10):
    said += watch(
      step, {'d_visible_accuracy': 1.0, 'd_infrared_accuracy': step % 2}
    )
  assert len(said) == 1
  assert 'd_visible' in said[0]


@pytest.mark.parametrize('name', ['accuracy', 'd_infrared_loss', 'accuracy_d_'])
def test_other_metrics_are_not_watched(name):
  assert not told(health.CollapseWatch(patience=2), [1.0] * 9, name)


class Checkpoints:
  directory = 'somewhere'

  def wait_until_finished(self):
    pass

  def latest_step(self):
    return None


def test_reading_shows_the_watch_every_step():
  watch = health.CollapseWatch(patience=6)
  said = []
  for block in range(3):
    unread = {
      step: {'d_visible_accuracy': jnp.float32(1), 'loss': jnp.float32(step)}
      for step in range(3 * block + 1, 3 * block + 4)
    }
    values, sentences = health.read(unread, Checkpoints(), watch)
    assert not unread
    steps = range(3 * block + 1, 3 * block + 4)
    assert {step: v['loss'] for step, v in values.items()} == {
      step: step for step in steps
    }
    said.append(len(sentences))
  assert said == [0, 1, 0]


def test_reading_stops_at_a_step_that_is_not_finite():
  unread = {1: {'loss': jnp.float32(1)}, 2: {'loss': jnp.float32(np.nan)}}
  with pytest.raises(health.NonFiniteLossError, match='step 2 is not finite'):
    health.read(unread, Checkpoints(), health.CollapseWatch())
