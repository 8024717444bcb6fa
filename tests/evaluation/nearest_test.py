"""Search in blocks equals sorting all distances, whatever the blocks."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxreid import sharding
from jaxreid.evaluation.nearest import Blocks, nearest


def brute_force(query, gallery, kind='sum', valid=None):
  """All distances in float64, sorted stably."""
  q, g = query.astype(np.float64), gallery.astype(np.float64)
  total = np.zeros((len(q), len(g)))
  for i in range(q.shape[1] if kind == 'sum' else 1):
    for j in range(g.shape[1] if kind == 'sum' else 1):
      total += np.linalg.norm(q[:, None, i] - g[None, :, j], axis=-1)
  if valid is not None:
    total[:, ~valid] = np.inf
  order = np.argsort(total, axis=1, kind='stable')
  return np.take_along_axis(total, order, axis=1), order


@pytest.fixture(scope='module', params=[1, 8])
def mesh(request):
  return sharding.make_mesh(jax.devices()[: request.param])


@pytest.mark.parametrize('kind', ['sum', 'plain'])
@pytest.mark.parametrize('rows', [16, 1000])
def test_equals_brute_force(mesh, kind, rows):
  rng = np.random.default_rng(rows)
  query = rng.normal(size=(5, 1, 7)).astype(np.float32)
  gallery = rng.normal(size=(101, 2, 7)).astype(np.float32)
  distance, row = nearest(query, Blocks(gallery, mesh, rows), 9, kind)
  expected, order = brute_force(query, gallery, kind)
  assert_array_equal(row, order[:, :9])
  assert_allclose(distance, expected[:, :9], rtol=1e-4)


def test_the_lower_of_equal_rows_comes_first(mesh):
  rng = np.random.default_rng(0)
  once = rng.integers(-2, 3, (6, 1, 4)).astype(np.float32)
  gallery = once[rng.integers(0, 6, 70)]
  query = rng.integers(-2, 3, (3, 1, 4)).astype(np.float32)
  _, row = nearest(query, Blocks(gallery, mesh, 24), 30)
  _, order = brute_force(query, gallery)
  assert_array_equal(row, order[:, :30])


def test_hidden_rows_are_not_found_and_places_stay_empty(mesh):
  rng = np.random.default_rng(1)
  query = rng.normal(size=(4, 1, 3)).astype(np.float32)
  gallery = rng.normal(size=(20, 1, 3)).astype(np.float32)
  valid = np.zeros(20, bool)
  valid[[2, 3, 11, 19]] = True
  distance, row = nearest(query, Blocks(gallery, mesh, 8, valid), 6)
  _, order = brute_force(query, gallery, valid=valid)
  assert_array_equal(row[:, :4], order[:, :4])
  assert (row[:, 4:] == -1).all()
  assert np.isinf(distance[:, 4:]).all()


def test_galleries_in_parts_and_many_queries(mesh):
  rng = np.random.default_rng(2)
  query = rng.normal(size=(300, 1, 3)).astype(np.float32)
  gallery = rng.normal(size=(50, 1, 3)).astype(np.float32)
  blocks = [
    *Blocks(gallery[:20], mesh),
    *Blocks(gallery[20:], mesh, rows=16, start=20),
  ]
  _, row = nearest(query, blocks, 3)
  assert_array_equal(row, brute_force(query, gallery)[1][:, :3])


def test_no_places_is_a_sentence(mesh):
  with pytest.raises(ValueError, match='at least 1'):
    nearest(np.zeros((1, 1, 2), np.float32), [], 0)


def test_blocks_can_be_searched_again_and_kinds_differ(mesh):
  rng = np.random.default_rng(3)
  query = rng.normal(size=(4, 2, 5)).astype(np.float32)
  gallery = rng.normal(size=(33, 2, 5)).astype(np.float32)
  blocks = Blocks(gallery, mesh, rows=16)
  for kind in ('sum', 'plain', 'mean', 'sum'):
    distance, row = nearest(query, blocks, 4, kind)
    of = 'sum' if kind == 'mean' else kind
    expected, order = brute_force(query, gallery, of)
    scale = 4 if kind == 'mean' else 1
    assert_array_equal(row, order[:, :4])
    assert_allclose(distance, expected[:, :4] / scale, rtol=1e-4)
  with pytest.raises(ValueError, match="not 'both'"):
    nearest(query, blocks, 4, 'both')
