import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose

from jaxreid.losses import (
  cross_center_gap,
  cross_modality_gap,
  modality_respective_gap,
  xiv_loss,
)

# Unequal group sizes, not sorted: identity 3 has a single row.
LABELS = np.array([4, 4, 1, 4, 1, 1, 3, 2, 2, 4, 2, 1, 4, 2, 1, 2], np.int32)


def _distance(u, v):
  return math.sqrt(sum((x - y) ** 2 for x, y in zip(u, v, strict=True)))


def _directed(anchors, others, labels, margin):
  values = []
  for anchor, label in zip(anchors, labels, strict=True):
    pairs = [
      (_distance(anchor, other), label == y)
      for other, y in zip(others, labels, strict=True)
    ]
    far = max(d for d, same in pairs if same)
    near = min((d for d, same in pairs if not same), default=math.inf)
    values.append(max(0.0, margin + far - near))
  return np.array(values)


def _loop_cross(i, x, v, labels, margin=0.5):
  directions = ((i, x), (x, i), (i, v), (v, i))
  return sum(_directed(a, b, labels, margin) for a, b in directions)


def _loop_centers(i, x, v, labels, margin=0.5):
  def centers(rows):
    return {
      y: [
        sum(column) / len(column)
        for column in zip(
          *(r for r, z in zip(rows, labels, strict=True) if z == y),
          strict=True,
        )
      ]
      for y in set(labels.tolist())
    }

  def between(a, b):
    values = {}
    for k in a:
      near = math.inf
      for other in a:
        if other != k:
          near = min(near, _distance(a[k], b[other]))
          near = min(near, _distance(a[other], b[k]))
      values[k] = max(0.0, margin + _distance(a[k], b[k]) - near)
    return values

  c_i, c_x, c_v = centers(i), centers(x), centers(v)
  i_x, i_v = between(c_i, c_x), between(c_i, c_v)
  # Both directions of the released code are the same number.
  return np.array([2 * i_x[y] + 2 * i_v[y] for y in labels.tolist()])


def _loop_respective(f, logits, labels, margin=0.3, label_smoothing=0.0):
  values = []
  for row, y in zip(logits, labels, strict=True):
    top = max(row)
    log_sum = top + math.log(sum(math.exp(z - top) for z in row))
    value = 0.0
    for k, z in enumerate(row):
      target = label_smoothing / len(row) + (1 - label_smoothing) * (k == y)
      value -= target * (z - log_sum)
    values.append(value)
  return np.array(values) + _directed(f, f, labels, margin)


def _loop_total(
  i,
  x,
  v,
  c_i,
  c_x,
  c_v,
  labels,
  gap_weight=0.1,
  cross_margin=0.5,
  margin=0.3,
  label_smoothing=0.0,
):
  within = sum(
    _loop_respective(f, c, labels, margin, label_smoothing)
    for f, c in ((i, c_i), (x, c_x), (v, c_v))
  )
  return within + gap_weight * _loop_cross(i, x, v, labels, cross_margin)


TOTAL = {
  'gap_weight': 0.7,
  'cross_margin': 1.1,
  'margin': 0.9,
  'label_smoothing': 0.2,
}
# name: (loss, embedding sets, logits, plain loop)
CASES = {
  'cross': (cross_modality_gap, 3, 0, _loop_cross),
  'cross_margin': (
    functools.partial(cross_modality_gap, margin=1.5),
    3,
    0,
    functools.partial(_loop_cross, margin=1.5),
  ),
  'centers': (
    functools.partial(cross_center_gap, margin=2.5),
    3,
    0,
    functools.partial(_loop_centers, margin=2.5),
  ),
  'respective': (modality_respective_gap, 1, 1, _loop_respective),
  'respective_smooth': (
    functools.partial(modality_respective_gap, margin=1.0, label_smoothing=0.1),
    1,
    1,
    functools.partial(_loop_respective, margin=1.0, label_smoothing=0.1),
  ),
  'total': (xiv_loss, 3, 3, _loop_total),
  'total_changed': (
    functools.partial(xiv_loss, **TOTAL),
    3,
    3,
    functools.partial(_loop_total, **TOTAL),
  ),
}
every_case = pytest.mark.parametrize('name', CASES)


def _arrays(name, seed=0, dtype=np.float64):
  _, sets, logits, _ = CASES[name]
  rng = np.random.default_rng(seed)
  shift = 0.5 * rng.normal(size=(sets, 1, 6))
  identity = rng.normal(size=(5, 6))[LABELS]
  f = rng.normal(size=(sets, 16, 6)) + shift + identity
  z = 2 * rng.normal(size=(logits, 16, 5))
  return [a.astype(dtype) for a in (*f, *z)]


@every_case
def test_equals_a_plain_loop(name):
  with jax.enable_x64(True):
    loss, *_, loop = CASES[name]
    arrays = _arrays(name)
    expected = loop(*arrays, LABELS)
    assert np.count_nonzero(expected) > 4
    assert_allclose(loss(*arrays, LABELS), expected, rtol=1e-6)
    assert_allclose(jax.jit(loss)(*arrays, LABELS), expected, rtol=1e-6)


@every_case
def test_vmap(name):
  loss, *_, loop = CASES[name]
  batches = [_arrays(name, seed, np.float32) for seed in range(2)]
  labels = [LABELS, LABELS[::-1].copy()]
  stacked = [np.stack(x) for x in zip(*batches, strict=True)]
  values = jax.vmap(loss)(*stacked, np.stack(labels))
  for i, arrays in enumerate(batches):
    assert_allclose(values[i], loop(*arrays, labels[i]), rtol=1e-4, atol=1e-4)


@every_case
def test_gradients_are_finite_where_rows_coincide(name):
  loss, sets, *_ = CASES[name]
  arrays = [jnp.asarray(a, jnp.float32) for a in _arrays(name)]
  some = [a.at[3:9].set(a[3]) for a in arrays[:sets]]
  shared = [arrays[0]] * sets
  for made in (some, shared, [jnp.zeros((16, 6))] * sets):
    gradients = jax.grad(lambda a: loss(*a, LABELS).sum())(made + arrays[sets:])
    for gradient in gradients:
      assert np.isfinite(gradient).all()


@every_case
def test_gradient_agrees_with_differences(name):
  with jax.enable_x64(True):
    loss, *_, loop = CASES[name]
    arrays = _arrays(name)
    gradients = jax.grad(lambda a: loss(*a, LABELS).sum())(arrays)
    for k, gradient in enumerate(gradients):
      step = np.zeros_like(arrays[k])
      step[2, 1] = 1e-6
      up, down = (
        sum(loop(*arrays[:k], moved, *arrays[k + 1 :], LABELS))
        for moved in (arrays[k] + step, arrays[k] - step)
      )
      assert_allclose(gradient[2, 1], (up - down) / 2e-6, atol=1e-6)


@every_case
def test_one_device_equals_eight(name):
  with jax.enable_x64(True):
    loss, *_ = CASES[name]
    arrays = _arrays(name)
    mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec('data'))
    sharded = loss(*jax.device_put((*arrays, LABELS), rows))
    assert_allclose(sharded, loss(*arrays, LABELS), rtol=1e-12, atol=1e-12)


@every_case
def test_half_precision_is_computed_in_float32(name):
  loss, *_, loop = CASES[name]
  arrays = [jnp.asarray(a, jnp.bfloat16) for a in _arrays(name)]
  values = loss(*arrays, LABELS)
  assert values.dtype == jnp.float32
  expected = loop(*(np.asarray(a, np.float32) for a in arrays), LABELS)
  assert_allclose(values, expected, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize('name', ['cross', 'centers'])
def test_anchor_without_a_negative_costs_nothing(name):
  loss, *_ = CASES[name]
  arrays = [jnp.asarray(a, jnp.float32) for a in _arrays(name)]
  one_identity = jnp.zeros(16, jnp.int32)
  assert_allclose(loss(*arrays, one_identity), np.zeros(16))
  for gradient in jax.grad(lambda a: loss(*a, one_identity).sum())(arrays):
    assert_allclose(gradient, np.zeros((16, 6)))


@every_case
def test_shape_errors(name):
  loss, *_ = CASES[name]
  arrays = _arrays(name, dtype=np.float32)
  with pytest.raises((TypeError, ValueError)):
    loss(*arrays, LABELS[:-1])
  for i in range(len(arrays)):
    wrong = [a[:-1] if j == i else a for j, a in enumerate(arrays)]
    with pytest.raises((TypeError, ValueError)):
      loss(*wrong, LABELS)


def test_cross_by_hand():
  i, v = jnp.array([[0.0], [5.0]]), jnp.array([[1.0], [2.5]])
  x = jnp.array([[0.0], [9.0]])
  labels = jnp.array([0, 1])
  # I-X: row 0 .5 + 0 - 9, row 1 .5 + 4 - 5; X-I: .5 + 0 - 5, .5 + 4 - 9.
  # I-V: row 0 .5 + 1 - 2.5, row 1 .5 + 2.5 - 4; V-I: .5 + 1 - 4,
  # .5 + 2.5 - 2.5.
  assert_allclose(cross_modality_gap(i, x, v, labels), [0, 0.5], atol=1e-6)


def test_centers_by_hand():
  labels = jnp.array([0, 0, 1, 1])
  i = jnp.array([[0.0], [2.0], [5.0], [7.0]])  # centres 1 and 6
  x = jnp.array([[3.0], [3.0], [4.0], [8.0]])  # centres 3 and 6
  v = jnp.array([[1.0], [1.0], [9.0], [9.0]])  # centres 1 and 9
  # I-X: D 2 and 0, nearest other 3 of both; I-V: D 0 and 3, nearest 5.
  loss = cross_center_gap(i, x, v, labels, margin=2.0)
  assert_allclose(loss, [2, 2, 0, 0], atol=1e-5)
  loss = cross_center_gap(i, x, v, labels, margin=3.0)
  assert_allclose(loss, [4, 4, 2, 2], atol=1e-5)


def test_the_cross_gap_has_no_pair_of_visible_and_x():
  i, x, v = (jnp.asarray(a) for a in _arrays('cross', dtype=np.float32))

  def to_x(v):
    return jax.grad(lambda x: cross_modality_gap(i, x, v, LABELS).sum())(x)

  assert_allclose(to_x(v), to_x(-3 * v))
