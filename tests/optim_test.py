import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from jaxreid.optim import Schedule, adam, schedule, sgd, total_steps

AGW = Schedule(0.1, 80, 10, (20, 50))


def _agw_rate(epoch):
  if epoch < 10:
    return 0.1 * (epoch + 1) / 10
  if epoch < 20:
    return 0.1
  return 0.01 if epoch < 50 else 0.001


def _bot_rate(epoch):
  e = epoch + 1
  rate = 3.5e-4 if e < 40 else 3.5e-5 if e < 70 else 3.5e-6
  return rate * (0.01 * (1 - e / 10) + e / 10 if e < 10 else 1)


BOT = Schedule(3.5e-4, 120, 10, (39, 69), warmup_start=0.01)


@pytest.mark.parametrize(
  ('plan', 'oracle'), [(AGW, _agw_rate), (BOT, _bot_rate)]
)
def test_every_epoch_at_its_first_and_last_step(plan, oracle):
  rate = jax.jit(schedule(plan, steps_per_epoch=7))
  for epoch in range(int(plan.epochs) + 5):
    for step in (7 * epoch, 7 * epoch + 6):
      assert_allclose(rate(step), oracle(epoch), rtol=1e-6)


def test_fractions_of_epochs_and_warmup_by_step():
  plan = Schedule(1.0, 2.5, 0.5, (1.2, 2), 0.5, warmup_by='step')
  rate = schedule(plan, steps_per_epoch=10)
  assert total_steps(plan, 10) == 25
  values = [float(rate(step)) for step in range(25)]
  expected = [0.2, 0.4, 0.6, 0.8] + [1.0] * 8 + [0.5] * 8 + [0.25] * 5
  assert_allclose(values, expected, rtol=1e-6)


def test_no_warmup_no_decay():
  rate = schedule(Schedule(0.3, 1), 5)
  assert_allclose([rate(0), rate(99)], [0.3, 0.3], rtol=1e-6)
  assert total_steps(Schedule(0.3, 0.7), 10) == 7


def test_errors():
  with pytest.raises(ValueError, match="'epoch' or 'step'"):
    schedule(AGW._replace(warmup_by='cosine'), 5)
  with pytest.raises(ValueError, match='at least 1'):
    schedule(AGW, 0)
  with pytest.raises(ValueError, match=r"'backbon'.*backbone, head"):
    sgd(0.1, multipliers={'backbon': 0.1}).init(_params())


def _params():
  return {
    'backbone': {
      'stage0': {'w': jnp.array([1.0, -2.0])},
      'stage01': {'w': jnp.array([0.5])},
    },
    'head': {'w': jnp.array([3.0])},
  }


FACTORS = {'backbone': 0.1, 'backbone/stage0': 0.5}


def _run(optimizer, gradients):
  params = _params()
  state = optimizer.init(params)
  for g in gradients:
    tree = {
      'backbone': {
        'stage0': {'w': jnp.array(g[:2])},
        'stage01': {'w': jnp.array(g[2:3])},
      },
      'head': {'w': jnp.array(g[3:])},
    }
    updates, state = jax.jit(optimizer.update)(tree, state, params)
    params = optax.apply_updates(params, updates)
  backbone = params['backbone']
  return np.concatenate(
    [backbone['stage0']['w'], backbone['stage01']['w'], params['head']['w']]
  )


GRADIENTS = np.random.default_rng(0).normal(size=(30, 4)).astype('float32')


@pytest.mark.parametrize('nesterov', [True, False])
def test_sgd_equals_a_plain_loop(nesterov):
  plan = Schedule(0.1, 10, 2, (5,))
  rate = schedule(plan, steps_per_epoch=3)
  result = _run(
    sgd(rate, nesterov=nesterov, weight_decay=0.05, multipliers=FACTORS),
    GRADIENTS,
  )
  for i, (start, factor) in enumerate(
    [(1.0, 0.5), (-2.0, 0.5), (0.5, 0.1), (3.0, 1.0)]
  ):
    p, buffer = start, None
    for step in range(30):
      epoch = step // 3
      lr = 0.1 * min((epoch + 1) / 2, 1) * (0.1 if epoch >= 5 else 1)
      g = float(GRADIENTS[step, i]) + 0.05 * p
      buffer = g if buffer is None else 0.9 * buffer + g
      p -= lr * factor * (g + 0.9 * buffer if nesterov else buffer)
    assert_allclose(result[i], p, rtol=1e-5)


def test_adam_equals_a_plain_loop():
  result = _run(
    adam(0.01, b1=0.5, weight_decay=0.05, multipliers=FACTORS), GRADIENTS
  )
  for i, (start, factor) in enumerate(
    [(1.0, 0.5), (-2.0, 0.5), (0.5, 0.1), (3.0, 1.0)]
  ):
    p, m, v = start, 0.0, 0.0
    for step in range(30):
      g = float(GRADIENTS[step, i]) + 0.05 * p
      m = 0.5 * m + 0.5 * g
      v = 0.999 * v + 0.001 * g * g
      m_hat, v_hat = m / (1 - 0.5 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
      p -= 0.01 * factor * m_hat / (v_hat**0.5 + 1e-8)
    assert_allclose(result[i], p, rtol=1e-4)


def test_a_copied_state_continues_where_it_stopped():
  optimizer = sgd(schedule(Schedule(0.1, 3, 0, (1, 2)), 2))
  params, gradient = {'w': jnp.array(1.0)}, {'w': jnp.array(1.0)}
  state = optimizer.init(params)
  steps = []
  for _ in range(6):
    update, state = optimizer.update(gradient, state, params)
    steps.append(float(update['w']))
    state = jax.tree.map(lambda leaf: jnp.array(np.asarray(leaf)), state)
  buffers = [1.0005]
  for _ in range(5):
    buffers.append(0.9 * buffers[-1] + 1.0005)
  rates = [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
  expected = [
    -lr * (1.0005 + 0.9 * b) for lr, b in zip(rates, buffers, strict=True)
  ]
  assert_allclose(steps, expected, rtol=1e-5)
