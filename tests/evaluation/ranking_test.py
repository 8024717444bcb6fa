import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxreid.evaluation import ranking
from jaxreid.evaluation.ranking import rank


def _loop_rank(distance, query_ids, gallery_ids, comparable, unique, max_rank):
  """The metrics by sorting each list and walking down."""
  cmc, aps, inps, skipped = np.zeros(max_rank), [], [], 0
  for i, identity in enumerate(query_ids):
    order = [j for j in range(len(gallery_ids)) if comparable[i][j]]
    order.sort(key=lambda j, i=i: (distance[i][j], j))
    ranked = [gallery_ids[j] for j in order]
    if identity not in ranked:
      skipped += 1
      continue
    precisions = []
    for place, other in enumerate(ranked, start=1):
      if other == identity:
        precisions.append((len(precisions) + 1) / place)
        last = place
    aps.append(sum(precisions) / len(precisions))
    inps.append(len(precisions) / last)
    if unique:
      ranked = list(dict.fromkeys(ranked))
    cmc[ranked.index(identity) :] += 1
  return cmc / len(aps), np.mean(aps), np.mean(inps), len(aps), skipped


def _case(seed, nq=23, ng=41, levels=5):
  """Few distinct distances, so that nearly every place is decided by a tie."""
  rng = np.random.default_rng(seed)
  distance = rng.integers(0, levels, (nq, ng)).astype(np.float32) - 1
  query_ids = rng.integers(0, 9, nq)
  gallery_ids = rng.choice([0, 1, 2, 3, 5, 6, 11, 14], ng)
  return distance, query_ids, gallery_ids, rng.random((nq, ng)) < 0.6


@pytest.mark.parametrize('unique', [False, True])
@pytest.mark.parametrize('levels', [2, 5, 10**6])
def test_equals_a_plain_loop(unique, levels):
  for seed in range(5):
    case = _case(seed, levels=levels)
    expected = _loop_rank(*case, unique, 7)
    assert expected[4] > 0
    found = rank(*case, unique_identities=unique, max_rank=7)
    for x, y in zip(found, expected, strict=True):
      assert_allclose(x, y, rtol=1e-5)


@pytest.mark.parametrize('unique', [False, True])
def test_everything_comparable(unique):
  distance, query_ids, gallery_ids, _ = _case(0)
  everything = np.ones(distance.shape, bool)
  expected = _loop_rank(
    distance, query_ids, gallery_ids, everything, unique, 20
  )
  found = rank(distance, query_ids, gallery_ids, unique_identities=unique)
  for x, y in zip(found, expected, strict=True):
    assert_allclose(x, y, rtol=1e-5)


def test_under_jit_and_in_small_blocks(monkeypatch):
  distance, query_ids, gallery_ids, comparable = _case(3)
  found = rank(distance, query_ids, gallery_ids, comparable, True)
  monkeypatch.setattr(ranking, '_BLOCK', 1)
  blocked = jax.jit(lambda d, c: rank(d, query_ids, gallery_ids, c, True))(
    distance, comparable
  )
  for x, y in zip(found, blocked, strict=True):
    assert_allclose(x, y, rtol=1e-6)


def test_three_queries_four_images_by_hand():
  distance = np.array(
    [
      [0.1, 0.2, 0.3, 0.4],  # order 0 1 2 3: ids 7 8 7 9
      [0.5, 0.5, 0.1, 0.5],  # order 2 0 1 3: ids 7 7 8 9
      [0.3, 0.1, 0.2, 0.9],  # order 1 2 0 3: ids 8 7 7 9
    ],
    np.float32,
  )
  gallery_ids = np.array([7, 8, 7, 9])
  result = rank(distance, np.array([7, 8, 9]), gallery_ids, max_rank=4)
  # Matches at places 1 and 3; at 3; at 4.
  assert_allclose(result.cmc, [1 / 3, 1 / 3, 2 / 3, 1], rtol=1e-6)
  expected_ap = ((1 + 2 / 3) / 2 + 1 / 3 + 1 / 4) / 3
  assert_allclose(result.mean_ap, expected_ap, rtol=1e-6)
  assert_allclose(result.mean_inp, (2 / 3 + 1 / 3 + 1 / 4) / 3, rtol=1e-6)
  assert (result.queries, result.skipped) == (3, 0)
  identities = rank(
    distance, np.array([7, 8, 9]), gallery_ids, None, True, max_rank=4
  )
  # Identities in order: 7 8 9, 7 8 9, 8 7 9.
  assert_allclose(identities.cmc, [1 / 3, 2 / 3, 1, 1], rtol=1e-6)
  assert_allclose(identities.mean_ap, expected_ap, rtol=1e-6)


def test_excluded_queries_are_left_out_and_counted():
  distance = np.array([[0.1, 0.2], [0.2, 0.1], [0.3, 0.4]], np.float32)
  comparable = np.array([[False, False], [True, True], [False, True]])
  result = rank(
    distance, np.array([0, 0, 0]), np.array([0, 1]), comparable, max_rank=2
  )
  assert (result.queries, result.skipped) == (1, 2)
  assert_allclose(result.cmc, [0, 1])
  assert_allclose([result.mean_ap, result.mean_inp], [0.5, 0.5])


def test_no_query_left_is_nan():
  result = rank(np.ones((1, 1), np.float32), np.array([0]), np.array([1]))
  assert (result.queries, result.skipped) == (0, 1)
  assert np.isnan(result.mean_ap)


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_a_broken_distance_is_not_a_good_result(bad):
  distance, query_ids, gallery_ids, comparable = _case(1)
  distance[~comparable] = bad
  assert np.isfinite(rank(distance, query_ids, gallery_ids, comparable).mean_ap)
  distance[4, np.flatnonzero(comparable[4])[0]] = bad
  result = rank(distance, query_ids, gallery_ids, comparable)
  assert np.isnan(result.mean_ap)
  assert np.isnan(result.cmc).all()


def test_sharded_rows():
  mesh = jax.make_mesh(
    (8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  sharding = jax.NamedSharding(mesh, jax.P('data'))
  distance, query_ids, gallery_ids, comparable = _case(2, nq=24)
  sharded = jax.device_put(jnp.asarray(distance), sharding)
  found = rank(sharded, query_ids, gallery_ids, comparable, True)
  expected = rank(distance, query_ids, gallery_ids, comparable, True)
  for x, y in zip(found, expected, strict=True):
    assert_allclose(x, y, rtol=1e-6)


def test_shape_errors():
  with pytest.raises((TypeError, ValueError)):
    rank(np.ones((2, 3), np.float32), np.arange(3), np.arange(3))
  with pytest.raises((TypeError, ValueError)):
    rank(
      np.ones((2, 3), np.float32),
      np.arange(2),
      np.arange(3),
      np.ones((3, 3), bool),
    )


def _loop_trapezoid(distance, query_ids, gallery_ids, comparable):
  """Areas under the curve of precision over recall, walking down each list."""
  areas = []
  for i, identity in enumerate(query_ids):
    order = [j for j in range(len(gallery_ids)) if comparable[i][j]]
    order.sort(key=lambda j, i=i: (distance[i][j], j))
    total = sum(gallery_ids[j] == identity for j in order)
    if not total:
      continue
    area, recall, precision, hits = 0.0, 0.0, 1.0, 0
    for place, j in enumerate(order, start=1):
      hits += gallery_ids[j] == identity
      step = hits / total - recall
      area += step * (precision + hits / place) / 2
      recall, precision = hits / total, hits / place
    areas.append(area)
  return np.mean(areas)


@pytest.mark.parametrize('levels', [2, 10**6])
def test_the_trapezoid_equals_a_plain_loop(levels):
  for seed in range(5):
    case = _case(seed, levels=levels)
    found = rank(*case, average_precision='trapezoid')
    assert_allclose(found.mean_ap, _loop_trapezoid(*case), rtol=1e-5)
    hits = rank(*case)
    assert found.mean_ap < hits.mean_ap
    for name in ('cmc', 'mean_inp', 'queries', 'skipped'):
      assert_allclose(getattr(found, name), getattr(hits, name))


def test_the_trapezoid_by_hand():
  distance = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.1, 0.2, 0.3]], np.float32)
  # Matches at places 1 and 3; then one at place 4.
  gallery_ids = np.array([7, 8, 7, 9])
  found = rank(
    distance[:1],
    np.array([7]),
    gallery_ids,
    average_precision='trapezoid',
  )
  expected = ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 2
  assert_allclose(found.mean_ap, expected, rtol=1e-6)
  found = rank(
    distance[1:],
    np.array([5]),
    np.array([5, 8, 7, 9]),
    average_precision='trapezoid',
  )
  assert_allclose(found.mean_ap, (0 + 1 / 4) / 2, rtol=1e-6)


def test_another_average_precision_is_refused():
  distance = np.ones((2, 3), np.float32)
  with pytest.raises(ValueError, match="'hits' or 'trapezoid', not 'area'"):
    rank(distance, np.arange(2), np.arange(3), average_precision='area')


def test_zeros_of_both_signs_tie():
  distance = np.array([[-0.0, 0.0, -0.0, -1.0, 1.0]], np.float32)
  for place, identity in enumerate([3, 0, 1, 2, 4]):
    found = rank(distance, np.array([identity]), np.arange(5), max_rank=5)
    assert_allclose(found.cmc, np.arange(5) >= place)


def test_neighbouring_distances_are_told_apart():
  with jax.enable_x64(True):
    for kind in (np.float32, np.float64):
      steps = [-1.0, 2.0, 3e5]
      distance = np.array(
        [[np.nextafter(kind(x), kind(9e9)), x] for x in steps], kind
      )
      found = rank(distance, np.zeros(3, int), np.arange(2), max_rank=2)
      assert_allclose(found.cmc, [0, 1])
      found = rank(distance, np.ones(3, int), np.arange(2), max_rank=2)
      assert_allclose(found.cmc, [1, 1])


def test_an_identity_with_many_images():
  rng = np.random.default_rng(0)
  gallery_ids = np.where(rng.random(60) < 0.7, 3, rng.integers(0, 9, 60))
  distance = rng.integers(0, 40, (9, 60)).astype(np.float32)
  comparable = rng.random((9, 60)) < 0.8
  case = distance, np.arange(9), gallery_ids, comparable
  for x, y in zip(
    rank(*case, True, 20), _loop_rank(*case, True, 20), strict=True
  ):
    assert_allclose(x, y, rtol=1e-5)
