import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxreid.distance import pairwise_euclidean, sum_over_modalities


def _random(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _loop_distance(a, b):
  return [
    [math.sqrt(sum((x - y) ** 2 for x, y in zip(u, v, strict=True))) for v in b]
    for u in a.astype(float)
  ]


def test_by_hand():
  distance = pairwise_euclidean(
    jnp.array([[0.0, 0.0], [3.0, 0.0]]), jnp.array([[0.0, 4.0]])
  )
  assert_allclose(distance, [[4], [5]], rtol=1e-6)


@pytest.mark.parametrize('transform', [lambda f: f, jax.jit])
def test_equals_a_plain_loop(transform):
  a, b = _random(0, 5, 7), _random(1, 3, 7)
  distance = transform(pairwise_euclidean)(a, b)
  assert_allclose(distance, _loop_distance(a, b), rtol=1e-5)


def test_vmap():
  a, b = _random(0, 2, 5, 7), _random(1, 2, 3, 7)
  distance = jax.vmap(pairwise_euclidean)(a, b)
  for i in range(2):
    assert_allclose(distance[i], _loop_distance(a[i], b[i]), rtol=1e-5)


def test_half_precision_is_computed_in_float32():
  a = _random(0, 4, 6)
  half = jnp.asarray(a, jnp.bfloat16)
  distance = pairwise_euclidean(half, half[:2])
  assert distance.dtype == jnp.float32
  exact = _loop_distance(np.asarray(half, np.float32), np.asarray(half[:2]))
  assert_allclose(distance, exact, rtol=1e-5, atol=2e-3)


def test_gradient_is_finite_and_bounded_where_rows_coincide():
  a = jnp.asarray(_random(0, 4, 6)).at[1].set(_random(0, 4, 6)[0])
  gradient = jax.grad(lambda x: pairwise_euclidean(x, x).sum())(a)
  # Each of the 8 distances that a row enters pulls with a force of 1.
  assert np.linalg.norm(gradient, axis=1).max() <= 8.1
  zeros = jax.grad(lambda x: pairwise_euclidean(x, x).sum())(jnp.zeros((3, 2)))
  assert_allclose(zeros, np.zeros((3, 2)))


def test_gradient_is_the_unit_vector():
  a, b = jnp.array([[3.0, 4.0]]), jnp.zeros((1, 2))
  gradient = jax.grad(lambda x: pairwise_euclidean(x, b).sum())(a)
  assert_allclose(gradient, [[0.6, 0.8]], rtol=1e-6)


def test_sum_over_modalities_adds_all_pairs():
  query, gallery = _random(0, 4, 1, 5), _random(1, 3, 2, 5)
  total = sum_over_modalities(query, gallery)
  first = np.array(_loop_distance(query[:, 0], gallery[:, 0]))
  second = np.array(_loop_distance(query[:, 0], gallery[:, 1]))
  assert_allclose(total, first + second, rtol=1e-5)
  assert_allclose(
    sum_over_modalities(query, gallery, 'plain'), first, rtol=1e-5
  )


def test_sum_over_modalities_is_no_concatenation():
  query = np.array([[[0.0]]], np.float32)
  # Sum: 0 + 5 > 3 + 1; root of the sum of squares: 5 > sqrt(10).
  gallery = np.array([[[0.0], [4.5]], [[3.0], [2.0]]], np.float32)
  total = np.asarray(sum_over_modalities(query, gallery))[0]
  joint = np.linalg.norm(gallery[:, :, 0], axis=1)
  assert total[0] < total[1]
  assert joint[0] > joint[1]


def test_errors():
  with pytest.raises((TypeError, ValueError)):
    pairwise_euclidean(jnp.zeros((2, 3)), jnp.zeros((2, 4)))
  with pytest.raises(ValueError, match="'sum' or 'plain', not 'product'"):
    sum_over_modalities(jnp.zeros((2, 1, 3)), jnp.zeros((2, 1, 3)), 'product')
