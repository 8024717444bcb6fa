import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxreid.evaluation import reciprocal


def _distances(queries, gallery, seed=0):
  """Symmetric, of few values, so that neighbours are decided by ties."""
  rng = np.random.default_rng(seed)
  whole = rng.integers(1, 6, (queries + gallery,) * 2).astype(np.float32)
  whole = np.triu(whole, 1) + np.triu(whole, 1).T
  return whole, reciprocal.Distances(
    jnp.asarray(whole[:queries, :queries]),
    jnp.asarray(whole[:queries, queries:]),
    jnp.asarray(whole[queries:, queries:]),
  )


@pytest.mark.parametrize('block', [25, 1 << 20])
def test_nearest_images_the_first_of_equals(monkeypatch, block):
  monkeypatch.setattr(reciprocal, '_BLOCK', block)
  whole, distances = _distances(7, 12)
  scale, nearest = reciprocal.find_nearest(distances, 5)
  assert_array_equal(scale, np.square(whole).max(axis=1))
  expected = np.argsort(whole, axis=1, kind='stable')[:, :5]
  assert_array_equal(nearest, expected)
  assert reciprocal.find_nearest(distances, 50)[1].shape == (19, 19)


def test_descriptions_hold_expanded_reciprocal_neighbours():
  whole, distances = _distances(14, 9, seed=1)
  scale, nearest = reciprocal.find_nearest(distances, 9)
  lists = reciprocal.describe(distances, scale, nearest, k1=8)
  order = np.asarray(nearest)
  merged = 0
  for i in range(23):
    base = {j for j in order[i] if i in order[j]}
    members = set(base)
    for j in base:
      theirs = {m for m in order[j][:5] if j in order[m][:5]}
      if 3 * len(theirs & base) > 2 * len(theirs):
        members |= theirs
    merged += members != base
    columns, weights = np.asarray(lists.column[i]), np.asarray(lists.weight[i])
    assert sorted(members) == columns[columns < 23].tolist()
    kept = np.exp(-np.square(whole[i, sorted(members)]) / scale[i])
    assert_allclose(weights[: len(members)], kept / kept.sum(), rtol=1e-5)
    assert not weights[len(members) :].any()
  assert 0 < merged < 23


def test_averages_add_up_what_lists_share():
  lists = reciprocal.Lists(
    jnp.array([[0, 2, 4], [2, 3, 4], [1, 4, 4], [0, 1, 2]]),
    jnp.array([[0.5, 0.5, 0], [0.25, 0.75, 0], [1.0, 0, 0], [0.2, 0.2, 0.6]]),
  )
  sources = jnp.array([[1, 0], [1, 2], [2, 3], [3, 0]])
  dense = np.zeros((4, 5))
  for i in range(4):
    dense[i, lists.column[i]] += lists.weight[i]
  expected = dense[np.asarray(sources), :4].mean(axis=1)
  averaged = reciprocal.average(lists, sources, rows=3)
  found = np.zeros((3, 5))
  for i in range(3):
    found[i, averaged.column[i]] += averaged.weight[i]
  assert_allclose(found[:, :4], expected[:3], rtol=1e-6)
  assert not found[:, 4].any()
  columns = reciprocal.average_dense(lists, sources, 2, 2)
  assert_allclose(columns, expected[2:].T, rtol=1e-6)


@pytest.mark.parametrize(('rows', 'size'), [(10, 4), (8, 4), (3, 3), (5, 1)])
def test_blocks_cover_every_row_once(rows, size):
  found = reciprocal.in_blocks(
    lambda start: (start + jnp.arange(size),), rows, size
  )
  assert_array_equal(found[0], np.arange(rows))
