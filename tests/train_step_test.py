"""The four rules of a step, on players made of plain functions.

Three players in an order that is not alphabetic (`jax.jit` sorts dictionaries)
and a frozen one. With plain SGD the whole step can be written down in NumPy.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxreid import train_state
from jaxreid.method import Aux, Method
from jaxreid.train_step import make_train_step

RATES = {'painter': 0.1, 'critic': 0.2, 'author': 0.05}


def _init(key, batch):
  del batch
  keys = jax.random.split(key, 4)
  names = ('painter', 'critic', 'author', 'teacher')
  return {
    'params': {
      name: {'w': jax.random.normal(k, (3,))}
      for name, k in zip(names, keys, strict=True)
    },
    'model_state': {
      'painter': {'count': jnp.ones(())},
      'critic': {'count': jnp.zeros(())},
      'teacher': {'mean': jnp.arange(3.0)},
    },
  }


def _augment(key, batch):
  return {'x': batch['x'] / 2 + 0 * jax.random.uniform(key)}


def _weights(variables):
  return {name: tree['w'] for name, tree in variables['params'].items()}


def _painter(variables, batch, key, outputs):
  assert not outputs
  w = _weights(variables)
  loss = jnp.sum(w['painter'] * batch['x'] + w['painter'] ** 2 * w['critic'])
  count = variables['model_state']['painter']['count']
  return loss, Aux(
    {'painted': w['painter'].sum(), 'painter_draw': jax.random.uniform(key)},
    {'count': 2 * count},
    {'fake': 2 * w['painter']},
  )


def _critic(variables, batch, key, outputs):
  del batch
  w = _weights(variables)
  state = variables['model_state']
  loss = jnp.sum(w['critic'] * outputs['fake'] * w['painter'] * w['teacher'])
  count = state['critic']['count'] + state['painter']['count']
  return loss, Aux(
    {'critic_draw': jax.random.uniform(key)},
    {'count': count},
    {'judged': w['critic']},
  )


def _author(variables, batch, key, outputs):
  del batch, key
  w = _weights(variables)
  return jnp.sum(
    w['author'] ** 2 * w['critic'] * outputs['judged'] * outputs['fake']
  ), Aux({})


METHOD = Method(
  init=_init,
  augment=_augment,
  losses={'painter': _painter, 'critic': _critic, 'author': _author},
  embed=lambda variables, images, modality: images,
)
OPTIMIZERS = {name: optax.sgd(rate) for name, rate in RATES.items()}
BATCH = {'x': jnp.array([0.3, -1.2, 2.0])}
KEY = jax.random.key(5)


def _create(method=METHOD):
  return train_state.create(method, OPTIMIZERS, jax.random.key(1), BATCH)


def _numpy(tree):
  return jax.tree.map(np.asarray, tree)


def test_one_step_is_the_one_written_down():
  before = _create()
  w = {name: np.asarray(v['w']) for name, v in before.params.items()}
  state, metrics = jax.jit(make_train_step(METHOD, OPTIMIZERS))(
    before, BATCH, KEY
  )

  x, p, c, a, t = (
    BATCH['x'] / 2,
    w['painter'],
    w['critic'],
    w['author'],
    w['teacher'],
  )
  new_p = p - 0.1 * (x + 2 * p * c)
  fake = 2 * p  # handed on before painter's update
  new_c = c - 0.2 * fake * new_p * t
  new_a = a - 0.05 * 2 * a * new_c * c * fake
  expected = {'painter': new_p, 'critic': new_c, 'author': new_a, 'teacher': t}
  for name, value in expected.items():
    assert_allclose(state.params[name]['w'], value, rtol=1e-5, err_msg=name)

  assert int(state.step) == 1
  assert float(state.model_state['painter']['count']) == 2
  # The critic saw the painter's new state.
  assert float(state.model_state['critic']['count']) == 2
  assert state.model_state['author'] == {}
  losses = {
    'painter_loss': (p * x + p**2 * c).sum(),
    'critic_loss': (c * fake * new_p * t).sum(),
    'author_loss': (a**2 * new_c * c * fake).sum(),
    'painted': p.sum(),
  }
  for name, value in losses.items():
    assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)


def test_a_frozen_player_keeps_its_bits_and_the_state_its_tree():
  traces = []

  def counted(key, batch):
    traces.append(1)
    return _augment(key, batch)

  method = METHOD._replace(augment=counted)
  step = jax.jit(make_train_step(method, OPTIMIZERS), donate_argnums=0)
  state = _create(method)
  before = _numpy(state)
  for _ in range(4):
    state, _ = step(state, BATCH, KEY)
  after = _numpy(state)

  def types(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)

  assert types(before) == types(after)
  assert len(traces) == 1  # once per step, and compiled once
  for part in ('params', 'model_state'):
    old, new = getattr(before, part), getattr(after, part)
    for x, y in zip(
      jax.tree.leaves(old['teacher']),
      jax.tree.leaves(new['teacher']),
      strict=True,
    ):
      assert x.tobytes() == y.tobytes()
  assert 'teacher' not in after.opt_state
  for name in RATES:
    assert (before.params[name]['w'] != after.params[name]['w']).all()


def test_gradients_reach_the_own_player_alone():
  def everyone(variables, batch, key, outputs):
    del batch, key, outputs
    leaves = jax.tree.leaves(variables['params'])
    return sum(jnp.sum(x**2) for x in leaves), Aux({}, {'count': jnp.ones(())})

  method = METHOD._replace(losses={'critic': everyone})
  optimizers = {'critic': optax.sgd(0.25)}
  state = train_state.create(method, optimizers, jax.random.key(1), BATCH)
  moved, metrics = make_train_step(method, optimizers)(state, BATCH, KEY)
  assert_allclose(
    moved.params['critic']['w'], state.params['critic']['w'] / 2, rtol=1e-6
  )
  for name in ('painter', 'author', 'teacher'):
    assert_array_equal(moved.params[name]['w'], state.params[name]['w'])
  assert set(metrics) == {'loss'}  # one player needs no name


def test_what_a_loss_writes_in_place_is_lost():
  def vandal(variables, batch, key, outputs):
    result = _painter(variables, batch, key, outputs)
    for name in ('critic', 'teacher'):
      variables['params'][name]['w'] = jnp.zeros(3)
      variables['model_state'][name] = {'count': jnp.full((), 99.0)}
    batch['x'] = jnp.zeros(3)
    outputs['fake'] = jnp.zeros(3)
    return result

  def player(variables, batch, key, outputs):
    loss, aux = _critic(variables, batch, key, outputs)
    return loss, aux._replace(metrics={'x': batch['x'].sum()})

  losses = {**METHOD.losses, 'painter': vandal, 'critic': player}
  honest = {**METHOD.losses, 'critic': player}
  states = [
    make_train_step(METHOD._replace(losses=both), OPTIMIZERS)(
      _create(), BATCH, KEY
    )
    for both in (losses, honest)
  ]
  jax.tree.map(assert_array_equal, *states)


@pytest.mark.parametrize(
  'written',
  [{}, {'critic': {'count': 0.0}}, {'count': 0.0, 'critic': {'count': 0.0}}],
)
def test_a_model_state_of_another_structure_is_refused(written):
  def loss(variables, batch, key, outputs):
    value, aux = _painter(variables, batch, key, outputs)
    return value, aux._replace(model_state=written)

  method = METHOD._replace(losses={**METHOD.losses, 'painter': loss})
  with pytest.raises(ValueError, match="model state of 'painter' alone"):
    make_train_step(method, OPTIMIZERS)(_create(), BATCH, KEY)


def test_players_move_in_the_order_of_the_dictionary():
  order = []

  def spy(name):
    def loss(*arguments):
      order.append(name)
      return METHOD.losses[name](*arguments)

    return loss

  method = METHOD._replace(losses={name: spy(name) for name in METHOD.losses})
  jax.jit(make_train_step(method, OPTIMIZERS))(_create(), BATCH, KEY)
  assert order == ['painter', 'critic', 'author']


def test_random_draws_depend_on_key_step_and_player():
  augment_draws = []

  def augment(key, batch):
    augment_draws.append(float(jax.random.uniform(key)))
    return _augment(key, batch)

  step = make_train_step(METHOD._replace(augment=augment), OPTIMIZERS)
  start = _create()

  def draws(number, key=KEY):
    state = start.replace(step=jnp.int32(number))
    _, metrics = step(state, BATCH, key)
    both = (float(metrics['painter_draw']), float(metrics['critic_draw']))
    return (*both, augment_draws[-1])

  assert draws(7) == draws(7)
  several = draws(0) + draws(1) + draws(7) + draws(7, jax.random.key(6))
  assert len(set(several)) == 12
  # A run that comes to step 1 draws what one started there does.
  state, _ = step(start, BATCH, KEY)
  _, metrics = step(state, BATCH, KEY)
  assert float(metrics['painter_draw']) == draws(1)[0]
