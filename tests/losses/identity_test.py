import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose

from jaxreid.losses import identity_loss


def _case(seed=0, n=16, c=5):
  rng = np.random.default_rng(seed)
  logits = rng.normal(scale=3, size=(n, c)).astype(np.float32)
  return logits, rng.integers(0, c, n).astype(np.int32)


def _loop(logits, labels, eps):
  losses = []
  for row, label in zip(logits.astype(float), labels, strict=True):
    log_sum = math.log(sum(math.exp(x) for x in row))
    loss = 0.0
    for i, x in enumerate(row):
      target = (1 - eps) * (i == label) + eps / len(row)
      loss -= target * (x - log_sum)
    losses.append(loss)
  return losses


def test_by_hand():
  logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
  loss = identity_loss(logits, jnp.array([0, 1]))
  assert_allclose(loss, [math.log(4), math.log(2)], rtol=1e-6)
  smooth = identity_loss(logits, jnp.array([0, 1]), 0.2)
  expected = 0.9 * math.log(4) + 0.1 * math.log(4 / 3)
  assert_allclose(smooth, [expected, math.log(2)], rtol=1e-6)


@pytest.mark.parametrize('eps', [0.0, 0.1, 1.0])
def test_equals_a_plain_loop(eps):
  logits, labels = _case()
  expected = _loop(logits, labels, eps)
  assert_allclose(identity_loss(logits, labels, eps), expected, rtol=1e-5)
  jitted = jax.jit(lambda x, y: identity_loss(x, y, eps))
  assert_allclose(jitted(logits, labels), expected, rtol=1e-5)


def test_vmap():
  cases = [_case(seed) for seed in range(3)]
  logits, labels = (np.stack(x) for x in zip(*cases, strict=True))
  loss = jax.vmap(identity_loss)(logits, labels)
  for i, case in enumerate(cases):
    assert_allclose(loss[i], _loop(*case, 0.0), rtol=1e-5)


def test_extreme_logits_stay_finite():
  logits = jnp.array([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]])
  labels = jnp.array([1, 0])
  gradient = jax.grad(lambda x: identity_loss(x, labels, 0.1).sum())(logits)
  assert np.isfinite(gradient).all()
  assert identity_loss(logits.astype(jnp.bfloat16), labels).dtype == jnp.float32


def test_one_device_equals_eight():
  with jax.enable_x64(True):
    logits, labels = _case()
    logits = logits.astype(np.float64)
    mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec('data'))
    sharded = identity_loss(*jax.device_put((logits, labels), rows), 0.1)
    assert_allclose(sharded, identity_loss(logits, labels, 0.1), rtol=1e-12)


def test_label_out_of_range_is_not_silent():
  loss = identity_loss(jnp.zeros((2, 3)), jnp.array([3, 0]))
  assert np.isnan(loss[0])
  assert np.isfinite(loss[1])


def test_errors():
  with pytest.raises((TypeError, ValueError)):
    identity_loss(jnp.zeros((2, 3)), jnp.zeros(3, jnp.int32))
  with pytest.raises(ValueError, match='not in'):
    identity_loss(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32), 1.5)
