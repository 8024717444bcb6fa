import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose

from jaxreid.losses import (
  batch_hard_triplet,
  cyclic_triplet,
  multi_mask_triplet,
  weighted_regularized_triplet,
)

# Unequal group sizes, not sorted: identity 9 has a single row.
LABELS = np.array([4, 4, 7, 4, 7, 7, 9, 2, 2, 4, 2, 7, 4, 2, 7, 2], np.int32)


def _distance(u, v):
  return math.sqrt(sum((x - y) ** 2 for x, y in zip(u, v, strict=True)))


def _loop_batch_hard(anchor, positive, negative, labels, margin=0.3):
  losses = []
  for i, label in enumerate(labels):
    hardest, nearest = 0.0, math.inf
    for j, other in enumerate(labels):
      if other == label:
        hardest = max(hardest, _distance(anchor[i], positive[j]))
      else:
        nearest = min(nearest, _distance(anchor[i], negative[j]))
    losses.append(max(0.0, margin + hardest - nearest))
  return losses


def _loop_weighted(embeddings, labels):
  losses = []
  for i, label in enumerate(labels):
    positive, negative = [], []
    for j, other in enumerate(labels):
      d = _distance(embeddings[i], embeddings[j])
      (positive if other == label else negative).append(d)
    mean = []
    for group, sign in ((positive, 1), (negative, -1)):
      top = max(sign * d for d in group)
      weights = [math.exp(sign * d - top) for d in group]
      pairs = zip(weights, group, strict=True)
      mean.append(sum(w * d for w, d in pairs) / sum(weights))
    losses.append(math.log1p(math.exp(mean[0] - mean[1])))
  return losses


def _loop_cyclic(v, t, z, labels, margin=0.3, divisor=1):
  terms = [
    _loop_batch_hard(v, t, z, labels, margin),
    _loop_batch_hard(t, z, v, labels, margin),
    _loop_batch_hard(z, v, t, labels, margin),
  ]
  return [sum(values) / divisor for values in zip(*terms, strict=True)]


def _loop_multi_mask(
  anchor, other, labels, margin, spread_margin, spread_weight, triplet_weight=1
):
  losses = []
  for i, label in enumerate(labels):
    positive, negative = [], []
    for j, identity in enumerate(labels):
      d = _distance(anchor[i], other[j])
      (positive if identity == label else negative).append(d)
    spread = max(positive) - min(positive) - spread_margin
    loss = spread_weight * max(0.0, spread)
    if negative:
      triplet = max(positive) - min(negative) + margin
      loss += triplet_weight * max(0.0, triplet)
    losses.append(loss)
  return losses


NEGATIVE_PART = {'margin': 0.3, 'spread_margin': 0.1, 'spread_weight': 0.0}
BOTH_PARTS = {'margin': 1.1, 'spread_margin': 0.9, 'spread_weight': 0.7}
POSITIVE_PART = {**BOTH_PARTS, 'triplet_weight': 0.0}
# name: (loss, number of embedding sets, plain loop)
CASES = {
  'batch_hard': (batch_hard_triplet, 3, _loop_batch_hard),
  'batch_hard_margin': (
    functools.partial(batch_hard_triplet, margin=1.5),
    3,
    functools.partial(_loop_batch_hard, margin=1.5),
  ),
  'weighted': (weighted_regularized_triplet, 1, _loop_weighted),
  'cyclic': (cyclic_triplet, 3, _loop_cyclic),
  'cyclic_mean': (
    functools.partial(cyclic_triplet, reduction='mean', margin=0.7),
    3,
    functools.partial(_loop_cyclic, margin=0.7, divisor=3),
  ),
  'multi_mask_negative': (
    functools.partial(multi_mask_triplet, **NEGATIVE_PART),
    2,
    functools.partial(_loop_multi_mask, **NEGATIVE_PART),
  ),
  'multi_mask_positive': (
    functools.partial(multi_mask_triplet, **POSITIVE_PART),
    2,
    functools.partial(_loop_multi_mask, **POSITIVE_PART),
  ),
  'multi_mask': (
    functools.partial(multi_mask_triplet, **BOTH_PARTS),
    2,
    functools.partial(_loop_multi_mask, **BOTH_PARTS),
  ),
}
every_case = pytest.mark.parametrize('name', CASES)


def _sets(count, seed=0, dtype=np.float32):
  rng = np.random.default_rng(seed)
  shift = rng.normal(size=(count, 1, 6))
  return list((rng.normal(size=(count, 16, 6)) + shift).astype(dtype))


@every_case
def test_equals_a_plain_loop(name):
  with jax.enable_x64(True):
    loss, count, loop = CASES[name]
    sets = _sets(count, dtype=np.float64)
    expected = loop(*sets, LABELS)
    assert np.count_nonzero(expected) > 4
    assert_allclose(loss(*sets, LABELS), expected, rtol=1e-5, atol=1e-5)
    jitted = jax.jit(loss)(*sets, LABELS)
    assert_allclose(jitted, expected, rtol=1e-5, atol=1e-5)


@every_case
def test_vmap(name):
  loss, count, loop = CASES[name]
  batches = [_sets(count, seed) for seed in range(2)]
  labels = [LABELS, LABELS[::-1].copy()]
  stacked = [np.stack(x) for x in zip(*batches, strict=True)]
  values = jax.vmap(loss)(*stacked, np.stack(labels))
  for i, sets in enumerate(batches):
    expected = loop(*sets, labels[i])
    assert_allclose(values[i], expected, rtol=1e-4, atol=1e-4)


@every_case
def test_gradients_are_finite_where_rows_coincide(name):
  loss, count, _ = CASES[name]
  half = [x.at[3:9].set(x[3]) for x in map(jnp.asarray, _sets(count))]
  shared = [jnp.asarray(_sets(1)[0])] * count
  for sets in (half, shared, [jnp.zeros((16, 6))] * count):
    for gradient in jax.grad(lambda x: loss(*x, LABELS).sum())(sets):
      assert np.isfinite(gradient).all()


@every_case
def test_gradient_agrees_with_differences(name):
  with jax.enable_x64(True):
    loss, count, loop = CASES[name]
    sets = _sets(count, dtype=np.float64)
    gradients = jax.grad(lambda x: loss(*x, LABELS).sum())(sets)
    for k, gradient in enumerate(gradients):
      step = np.zeros_like(sets[k])
      step[2, 1] = 1e-6
      up, down = (
        sum(loop(*sets[:k], moved, *sets[k + 1 :], LABELS))
        for moved in (sets[k] + step, sets[k] - step)
      )
      assert_allclose(gradient[2, 1], (up - down) / 2e-6, atol=1e-6)


@every_case
def test_one_device_equals_eight(name):
  with jax.enable_x64(True):
    loss, count, _ = CASES[name]
    sets = _sets(count, dtype=np.float64)
    mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec('data'))
    sharded = loss(*jax.device_put((*sets, LABELS), rows))
    assert_allclose(sharded, loss(*sets, LABELS), rtol=1e-12, atol=1e-12)


@every_case
def test_half_precision_is_computed_in_float32(name):
  loss, count, loop = CASES[name]
  sets = [jnp.asarray(x, jnp.bfloat16) for x in _sets(count)]
  values = loss(*sets, LABELS)
  assert values.dtype == jnp.float32
  expected = loop(*(np.asarray(x, np.float32) for x in sets), LABELS)
  assert_allclose(values, expected, rtol=1e-4, atol=2e-3)


# The spread of positives is limited whether there are negatives or not.
@pytest.mark.parametrize(
  'name', [n for n in CASES if n not in ('multi_mask', 'multi_mask_positive')]
)
def test_anchor_without_a_negative_costs_nothing(name):
  loss, count, _ = CASES[name]
  sets = [jnp.asarray(x) for x in _sets(count)]
  one_identity = jnp.zeros(16, jnp.int32)
  assert_allclose(loss(*sets, one_identity), np.zeros(16))
  gradients = jax.grad(lambda s: loss(*s, one_identity).sum())(sets)
  for gradient in gradients:
    assert_allclose(gradient, np.zeros((16, 6)))


@every_case
def test_shape_errors(name):
  loss, count, _ = CASES[name]
  sets = _sets(count)
  with pytest.raises((TypeError, ValueError)):
    loss(*sets, LABELS[:-1])
  with pytest.raises((TypeError, ValueError)):
    loss(sets[0][:, None, :], *sets[1:], LABELS)


def test_batch_hard_by_hand():
  anchor = jnp.array([[0.0], [10.0]])
  positive = jnp.array([[2.0], [9.0]])
  negative = jnp.array([[4.0], [1.5]])
  labels = jnp.array([0, 1])
  loss = batch_hard_triplet(anchor, positive, negative, labels, 0.3)
  # 0.3 + 2 - 1.5, and the far negative of the second anchor: 0.3 + 1 - 6.
  assert_allclose(loss, [0.8, 0], atol=1e-6)


def test_weighted_by_hand():
  # Two points 3 apart: w+ has only the anchor itself, at distance 0.
  loss = weighted_regularized_triplet(
    jnp.array([[0.0], [3.0]]), jnp.array([0, 1])
  )
  assert_allclose(loss, [math.log1p(math.exp(-3))] * 2, rtol=1e-5)


def test_weighted_does_not_fade_with_distance():
  embeddings, labels = _sets(1)[0], LABELS
  assert_allclose(
    weighted_regularized_triplet(1000 * embeddings, labels),
    1000 * np.array(_loop_batch_hard(*[embeddings] * 3, labels, margin=0.0)),
    rtol=1e-2,
    atol=1,
  )


def test_cyclic_by_hand():
  v, t = jnp.array([[0.0], [5.0]]), jnp.array([[1.0], [5.0]])
  z = jnp.array([[3.0], [3.5]])
  labels = jnp.array([0, 1])
  # Row 0: (v t z) .3 + 1 - 3.5; (t z v) .3 + 2 - 4; (z v t) .3 + 3 - 2.
  # Row 1: (v t z) .3 + 0 - 2; (t z v) .3 + 1.5 - 5; (z v t) .3 + 1.5 - 2.5.
  loss = cyclic_triplet(v, t, z, labels)
  assert_allclose(loss, [1.3, 0], atol=1e-6)
  mean = cyclic_triplet(v, t, z, labels, reduction='mean')
  assert_allclose(mean, [1.3 / 3, 0], atol=1e-6)
  with pytest.raises(ValueError, match="'sum' or 'mean', not 'max'"):
    cyclic_triplet(v, t, z, labels, reduction='max')


def test_multi_mask_by_hand():
  v = jnp.array([[0.0], [1.0], [9.0], [2.0]])
  t = jnp.array([[3.0], [5.0], [4.0], [2.5]])
  labels = jnp.array([0, 0, 1, 1])
  numbers = {'margin': 0.5, 'spread_margin': 1.5, 'spread_weight': 2.0}
  # Hardest positive - nearest negative + m1, 2 (hardest - easiest - m2):
  # 5 - 2.5 + .5 and 2 (5 - 3 - 1.5); 4 - 1.5 + .5 and 2 (4 - 2 - 1.5);
  # 6.5 - 4 + .5 and 0; 2 - 1 + .5 and 0.
  loss = multi_mask_triplet(v, t, labels, **numbers)
  assert_allclose(loss, [3 + 1, 3 + 1, 3, 1.5], atol=1e-6)
  loss = multi_mask_triplet(v, t, labels, **numbers, triplet_weight=0.0)
  assert_allclose(loss, [1, 1, 0, 0], atol=1e-6)


def test_multi_mask_without_a_spread_is_a_batch_hard_triplet():
  v, t = _sets(2)
  loss = multi_mask_triplet(v, t, LABELS, 0.7, 0.0, 0.0)
  assert_allclose(loss, batch_hard_triplet(v, t, t, LABELS, 0.7), rtol=1e-6)


def test_multi_mask_sees_no_distance_within_a_modality():
  v, t = map(jnp.asarray, _sets(2))
  jacobian = jax.jacobian(
    lambda v: multi_mask_triplet(v, t, LABELS, 1.1, 0.9, 0.7)
  )(v)
  of_others = jnp.where(jnp.eye(16)[:, :, None] == 1, 0, jacobian)
  assert (of_others == 0).all()
  assert (jacobian != 0).any()


def test_multi_mask_limits_the_spread_without_negatives():
  v, t = _sets(2)
  one_identity = np.zeros(16, np.int32)
  expected = _loop_multi_mask(v, t, one_identity, **BOTH_PARTS)
  assert min(expected) > 0
  loss = multi_mask_triplet(v, t, one_identity, **BOTH_PARTS)
  assert_allclose(loss, expected, rtol=1e-4)
