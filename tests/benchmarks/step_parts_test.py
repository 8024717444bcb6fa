"""The parts of a step that are timed make the step that a run takes."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import on_gpu, step_parts, train_step
from jaxreid import train_state
from jaxreid.method import Aux, Method
from jaxreid.train_step import make_train_step


def _method():
  def loss(variables, batch, key, outputs):
    del key, outputs
    w, n = variables['params']['net']['w'], variables['model_state']['net']['n']
    value = jnp.mean((batch['x'] @ w - 1) ** 2)
    return value, Aux({'error': value}, {'n': n + 1})

  return Method(
    init=lambda key, batch: {
      'params': {'net': {'w': jax.random.normal(key, (3,))}},
      'model_state': {'net': {'n': jnp.zeros(())}},
    },
    augment=lambda key, batch: batch,
    losses={'net': loss},
    embed=lambda variables, images, modality: images,
  )


def test_gradient_and_update_are_those_of_the_step():
  method, optimizers = _method(), {'net': optax.sgd(0.1, momentum=0.9)}
  batch = {'x': jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))}
  key = jax.random.key(1)
  state = train_state.create(method, optimizers, key, batch)
  expected, metrics = make_train_step(method, optimizers)(state, batch, key)

  ((value, said, model_state),) = step_parts.losses_of(
    method, state, batch, key
  )
  grads, _ = step_parts.gradients_of(method, state, batch, key)
  params, opt_state = step_parts.updated(optimizers, state, grads)['net']
  assert value == said['error'] == metrics['loss']
  assert model_state == expected.model_state['net']
  np.testing.assert_allclose(params['w'], expected.params['net']['w'], 1e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, 1e-6),
    opt_state,
    expected.opt_state['net'],
  )


def test_a_clock_is_asked_before_and_after():
  ticks = iter(range(100))
  seconds = step_parts.timed(lambda: 0, 3, lambda: next(ticks) ** 2)
  assert seconds == [1, 5, 9]


def test_the_share_of_the_peak_is_of_the_step(capsys):
  parts = dict.fromkeys(
    ('augmentation', 'forward', 'backward', 'optimizer', 'feed'), 0.001
  )
  row = train_step.Row(10, 0.5, 2e9, 3e9, 7.0, parts)
  train_step.print_row(4, row, peak=24e9)
  cells = [x.strip() for x in capsys.readouterr().out.strip('|\n').split('|')]
  assert cells[:7] == ['4', '10', '20', '500', '0.3', '0.2', '25.0%']
  assert len(cells) == len(train_step.TITLES.split(', '))


@pytest.mark.parametrize('size', on_gpu.PARTS)
def test_the_command_for_a_gpu_knows_its_flags(size, monkeypatch):
  shares = [share for _, share in on_gpu.PARTS[size]]
  assert sum(shares) == pytest.approx(1)
  for arguments, _ in on_gpu.PARTS[size]:
    name, *flags = arguments.split()
    if name == 'train_step':  # the other needs PyTorch
      monkeypatch.setattr('sys.argv', [name, *flags])
      assert train_step.parse().size == size


def test_what_takes_too_long_is_ended(monkeypatch, capfd):
  monkeypatch.setattr(
    on_gpu.subprocess,
    'run',
    lambda *a, timeout, **k: _late(timeout),
  )
  on_gpu.run(['train_step'], 0.5)
  assert 'out of time' in capfd.readouterr().out


def _late(timeout):
  raise on_gpu.subprocess.TimeoutExpired(types.SimpleNamespace(), timeout)
