"""The state before the first step."""

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxreid import train_state
from jaxreid.method import Aux, Method


def _init(key, batch):
  size = batch['label'].shape[0]
  return {
    'params': {
      'backbone': {'w': jax.random.normal(key, (size,))},
      'generator': {'w': jnp.ones(2)},
      'teacher': {'w': jnp.ones(3)},
    },
    'model_state': {'backbone': {'mean': jnp.zeros(2)}},
  }


def _loss(variables, batch, key, outputs):
  del variables, batch, key, outputs
  return jnp.zeros(()), Aux({})


METHOD = Method(
  init=_init,
  augment=lambda key, batch: batch,
  losses={'generator': _loss, 'backbone': _loss},
  embed=lambda variables, images, modality: images,
)
OPTIMIZERS = {
  'backbone': optax.sgd(0.1, momentum=0.9),
  'generator': optax.adam(1e-3),
}
BATCH = {'label': jnp.arange(4)}


def _create():
  return train_state.create(METHOD, OPTIMIZERS, jax.random.key(0), BATCH)


def test_every_player_has_parameters_and_a_model_state():
  state = _create()
  assert state.step.dtype == jnp.int32
  assert state.step.shape == ()
  assert int(state.step) == 0
  assert set(state.params) == {'backbone', 'generator', 'teacher'}
  assert state.model_state['generator'] == {}
  assert state.model_state['teacher'] == {}
  assert set(state.model_state['backbone']) == {'mean'}


def test_optimizers_belong_to_players_with_a_loss():
  state = _create()
  assert set(state.opt_state) == {'backbone', 'generator'}
  shapes = {x.shape for x in jax.tree.leaves(state.opt_state['backbone'])}
  assert shapes == {(4,)}  # momentum of the backbone's own parameters


def test_variables_are_what_a_method_takes():
  state = _create()
  assert state.variables == {
    'params': state.params,
    'model_state': state.model_state,
  }


def test_creation_is_a_pure_function():
  made = jax.jit(_create)()
  shapes = jax.eval_shape(_create)
  assert jax.tree.structure(made) == jax.tree.structure(shapes)
  assert jax.tree.all(
    jax.tree.map(lambda a, b: (a == b).all(), made, _create())
  )


@pytest.mark.parametrize(
  'given', [('backbone',), ('backbone', 'generator', 'teacher'), ()]
)
def test_players_and_optimizers_must_match(given):
  optimizers = {name: optax.sgd(0.1) for name in given}
  with pytest.raises(ValueError, match=r"loss are \['backbone', 'generator'\]"):
    train_state.create(METHOD, optimizers, jax.random.key(0), BATCH)
