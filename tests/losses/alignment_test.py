import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose

from jaxreid.losses import color_free, color_free_mse


def _log_softmax(row):
  top = max(row)
  log_sum = top + math.log(sum(math.exp(x - top) for x in row))
  return [x - log_sum for x in row]


def _kl(p, q):
  return sum(math.exp(x) * (x - y) for x, y in zip(p, q, strict=True))


def _loop_color_free(
  f_v, f_z, c_v, c_z, threshold=0.5, kl_weight=0.5, kl_order='z_v'
):
  losses = []
  for v, z, row_v, row_z in zip(f_v, f_z, c_v, c_z, strict=True):
    norm_v = math.sqrt(sum(float(x) ** 2 for x in v))
    norm_z = math.sqrt(sum(float(x) ** 2 for x in z))
    pairs = zip(v, z, strict=True)
    distance = math.sqrt(sum((a / norm_v - b / norm_z) ** 2 for a, b in pairs))
    log_v, log_z = _log_softmax(row_v), _log_softmax(row_z)
    order = (log_z, log_v) if kl_order == 'z_v' else (log_v, log_z)
    losses.append(distance if distance > threshold else kl_weight * _kl(*order))
  return losses


def _loop_mse(f_v, f_z):
  return [
    sum((float(a) - float(b)) ** 2 for a, b in zip(v, z, strict=True)) / len(v)
    for v, z in zip(f_v, f_z, strict=True)
  ]


CHANGED = {'threshold': 0.9, 'kl_weight': 0.2, 'kl_order': 'v_z'}
# name: (loss, number of arguments, plain loop)
CASES = {
  'color_free': (color_free, 4, _loop_color_free),
  'color_free_changed': (
    functools.partial(color_free, **CHANGED),
    4,
    functools.partial(_loop_color_free, **CHANGED),
  ),
  'mse': (color_free_mse, 2, _loop_mse),
}
every_case = pytest.mark.parametrize('name', CASES)


def _arguments(count, seed=0, dtype=np.float32):
  """Pairs of which about half lie on either side of the threshold."""
  rng = np.random.default_rng(seed)
  f_v = 4 * rng.normal(size=(16, 6))
  noise = np.linspace(0.2, 4, 16)[:, None] * rng.normal(size=(16, 6))
  c_v, c_z = 2 * rng.normal(size=(2, 16, 5))
  arguments = (f_v, 0.5 * (f_v + noise), c_v, c_z)[:count]
  return [x.astype(dtype) for x in arguments]


@every_case
def test_equals_a_plain_loop(name):
  loss, count, loop = CASES[name]
  arguments = _arguments(count)
  expected = loop(*arguments)
  assert_allclose(loss(*arguments), expected, rtol=1e-5, atol=1e-6)
  assert_allclose(jax.jit(loss)(*arguments), expected, rtol=1e-5, atol=1e-6)


def test_the_random_pairs_take_both_branches():
  distance = np.array(_loop_color_free(*_arguments(4), kl_weight=0.0))
  assert 4 <= np.count_nonzero(distance) <= 12


@every_case
def test_vmap(name):
  loss, count, loop = CASES[name]
  batches = [_arguments(count, seed) for seed in range(3)]
  values = jax.vmap(loss)(*(np.stack(x) for x in zip(*batches, strict=True)))
  for i, arguments in enumerate(batches):
    assert_allclose(values[i], loop(*arguments), rtol=1e-5, atol=1e-6)


@every_case
def test_gradients_are_finite_where_rows_coincide(name):
  loss, count, _ = CASES[name]
  equal = [jnp.asarray(_arguments(count)[2 * (i // 2)]) for i in range(count)]
  zeros = [jnp.zeros((16, 6))] * 2 + [jnp.zeros((16, 5))] * (count - 2)
  for arguments in (equal, zeros):
    gradients = jax.grad(lambda x: loss(*x).sum())(arguments)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@every_case
def test_one_device_equals_eight(name):
  with jax.enable_x64(True):
    loss, count, _ = CASES[name]
    arguments = _arguments(count, dtype=np.float64)
    mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec('data'))
    sharded = loss(*jax.device_put(arguments, rows))
    assert_allclose(sharded, loss(*arguments), rtol=1e-12, atol=1e-12)


@every_case
def test_half_precision_is_computed_in_float32(name):
  loss, count, loop = CASES[name]
  arguments = [jnp.asarray(x, jnp.bfloat16) for x in _arguments(count)]
  values = loss(*arguments)
  assert values.dtype == jnp.float32
  expected = loop(*(np.asarray(x, np.float32) for x in arguments))
  assert_allclose(values, expected, rtol=1e-4, atol=1e-4)


@every_case
def test_shape_errors(name):
  loss, count, _ = CASES[name]
  arguments = _arguments(count)
  for i in range(count):
    wrong = [x[:-1] if j == i else x for j, x in enumerate(arguments)]
    with pytest.raises((TypeError, ValueError)):
      loss(*wrong)


def test_by_hand():
  f_v = jnp.array([[2.0, 0.0], [1.0, 0.0]])
  f_z = jnp.array([[0.0, 7.0], [3.0, 0.0]])
  c_v = jnp.log(jnp.array([[0.5, 0.5], [0.5, 0.5]]))
  c_z = jnp.log(jnp.array([[0.1, 0.9], [0.25, 0.75]]))
  loss = color_free(f_v, f_z, c_v, c_z)
  kl = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
  assert_allclose(loss, [math.sqrt(2), 0.5 * kl], rtol=1e-6)
  assert_allclose(color_free_mse(f_v, f_z), [53 / 2, 2], rtol=1e-6)


@pytest.mark.parametrize('order', ['z_v', 'v_z'])
def test_the_intermediate_logits_teach(order):
  def total(logits):
    c_v, c_z = logits
    return color_free(f_v, f_v, c_v, c_z, kl_order=order).sum()

  f_v, _, c_v, c_z = map(jnp.asarray, _arguments(4))
  to_visible, to_intermediate = jax.grad(total)((c_v, c_z))
  assert np.abs(to_visible).max() > 0.01
  assert_allclose(to_intermediate, np.zeros_like(c_z))


def test_extreme_logits_stay_finite():
  f_v = jnp.ones((1, 2))
  c_v, c_z = jnp.array([[1e4, -1e4]]), jnp.array([[-1e4, 1e4]])
  for order in ('z_v', 'v_z'):
    value, gradient = jax.value_and_grad(
      lambda c, order=order: color_free(f_v, f_v, c, c_z, kl_order=order).sum()
    )(c_v)
    assert_allclose(value, 1e4, rtol=1e-6)
    assert np.isfinite(gradient).all()


def test_unknown_order():
  with pytest.raises(ValueError, match="'z_v' or 'v_z', not 'both'"):
    color_free(*_arguments(4), kl_order='both')
