"""Checkpoints: what is kept, what comes back, and who is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxreid import checkpoint, sharding
from jaxreid.train_state import TrainState


def make_state(step=0, width=8, seed=0, place=None) -> TrainState:
  rng = np.random.default_rng((seed, step))
  place = place or sharding.replicated(sharding.make_mesh())
  state = TrainState(
    step=jnp.asarray(step, jnp.int32),
    params={'net': {'kernel': rng.normal(size=(width, 3)).astype('f4')}},
    model_state={'net': {'mean': rng.normal(size=width).astype('f4')}},
    opt_state={'net': (jnp.asarray(step, jnp.int32), {'t': jnp.ones(width)})},
  )
  return jax.device_put(state, place)


def assert_same(a: TrainState, b: TrainState):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y), strict=True)


def save_all(folder, maps, keep_best):
  """Saves steps 1, 2, ... with the given validation mAPs (None: without)."""
  with checkpoint.open_checkpoints(folder, keep_best) as checkpoints:
    for step, value in enumerate(maps, 1):
      metrics = {} if value is None else {'validation_mAP': value}
      checkpoint.save(checkpoints, make_state(step), metrics)


def test_latest_is_kept_and_comes_back(tmp_path):
  with checkpoint.open_checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest_step() is None
    assert checkpoint.reported_step(checkpoints, False) is None
  save_all(tmp_path, [None] * 4, keep_best=False)
  with checkpoint.open_checkpoints(tmp_path) as checkpoints:
    assert list(checkpoints.all_steps()) == [4]
    assert checkpoint.reported_step(checkpoints, False) == 4
    found = checkpoint.restore(checkpoints, make_state(), 4)
  assert_same(found, make_state(4))


@pytest.mark.parametrize(
  ('maps', 'best'),
  [
    ([10.0, 30.0, 20.0, 5.0], 2),
    ([40.0, 30.0, 20.0, 25.0], 1),
    ([10.0, 20.0, 30.0, 40.0], 4),
    # Saved on SIGTERM, hence never validated.
    ([10.0, None, 20.0, None], 3),
  ],
)
def test_best_is_kept_beside_the_latest(tmp_path, maps, best):
  save_all(tmp_path, maps, keep_best=True)
  with checkpoint.open_checkpoints(tmp_path, keep_best=True) as checkpoints:
    assert set(checkpoints.all_steps()) == {best, 4}
    assert checkpoints.latest_step() == 4
    assert checkpoint.reported_step(checkpoints, True) == best
    found = checkpoint.restore(checkpoints, make_state(), best)
  assert_same(found, make_state(best))


def test_best_survives_a_restart(tmp_path):
  save_all(tmp_path, [10.0, 30.0, 20.0], keep_best=True)
  with checkpoint.open_checkpoints(tmp_path, keep_best=True) as checkpoints:
    for step, value in ((4, 29.0), (5, 1.0)):
      checkpoint.save(checkpoints, make_state(step), {'validation_mAP': value})
    checkpoints.wait_until_finished()
    assert set(checkpoints.all_steps()) == {2, 5}
    assert checkpoint.reported_step(checkpoints, True) == 2


@pytest.mark.parametrize('spec', [PartitionSpec('data'), PartitionSpec()])
def test_restores_into_the_shardings_that_are_asked_for(tmp_path, spec):
  one = sharding.make_mesh(jax.devices()[:1])
  eight = sharding.make_mesh()
  with checkpoint.open_checkpoints(tmp_path) as checkpoints:
    saved = make_state(1, place=sharding.replicated(one))
    checkpoint.save(checkpoints, saved)
    checkpoints.wait_until_finished()

    def place(array):
      rows = spec if array.ndim else PartitionSpec()
      return jax.ShapeDtypeStruct(
        array.shape, array.dtype, sharding=NamedSharding(eight, rows)
      )

    wanted = jax.tree.map(place, saved)
    found = checkpoint.restore(checkpoints, wanted, 1)
  assert_same(found, saved)
  kernel = found.params['net']['kernel']
  assert kernel.sharding == NamedSharding(eight, spec)
  assert len(kernel.sharding.device_set) == 8


def test_donating_at_once_does_not_reach_the_checkpoint(tmp_path):
  move = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
  with checkpoint.open_checkpoints(tmp_path) as checkpoints:
    state = make_state(1)
    checkpoint.save(checkpoints, state)
    for _ in range(5):
      state = move(state)
    checkpoints.wait_until_finished()
    found = checkpoint.restore(checkpoints, make_state(), 1)
  assert_same(found, make_state(1))


@pytest.mark.parametrize('other', ['shape', 'name', 'player'])
def test_another_model_is_refused_in_a_sentence(tmp_path, other):
  wanted = make_state(1)
  if other == 'shape':
    wanted = make_state(1, width=16)
  elif other == 'name':
    wanted = wanted.replace(
      params={'net': {'weight': wanted.params['net']['kernel']}}
    )
  else:
    wanted = wanted.replace(params={**wanted.params, 'teacher': jnp.ones(3)})
  with checkpoint.open_checkpoints(tmp_path) as checkpoints:
    checkpoint.save(checkpoints, make_state(7))
    checkpoints.wait_until_finished()
    with pytest.raises(ValueError) as error:
      checkpoint.restore(checkpoints, wanted, 7)
  text = str(error.value)
  assert text.startswith(
    f'checkpoint 7 of {tmp_path}/checkpoints holds another'
  )
  assert '\n' not in text


def test_a_checkpoint_remembers_its_split(tmp_path):
  first = {'name': 'regdb', 'config': 'trial_1'}
  second = {'name': 'regdb', 'config': 'trial_2'}
  with checkpoint.open_checkpoints(tmp_path) as checkpoints:
    checkpoint.save(checkpoints, make_state(3), trained_on=first)
  with checkpoint.open_checkpoints(tmp_path) as checkpoints:
    checkpoint.check_trained_on(checkpoints, 3, first)
    with pytest.raises(ValueError, match=r'regdb/trial_1, not regdb/trial_2'):
      checkpoint.check_trained_on(checkpoints, 3, second)


def test_a_checkpoint_that_says_nothing_is_let_pass(tmp_path):
  save_all(tmp_path, [None], keep_best=False)
  with checkpoint.open_checkpoints(tmp_path) as checkpoints:
    checkpoint.check_trained_on(checkpoints, 1, {'name': 'a', 'config': 'b'})
