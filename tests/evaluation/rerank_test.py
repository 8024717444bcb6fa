import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxreid.distance import pairwise_euclidean
from jaxreid.evaluation import reciprocal, rerank
from jaxreid.evaluation.rerank import (
  k_reciprocal,
  k_reciprocal_from_distance,
)


def _loop_k_reciprocal(
  query_query, query_gallery, gallery_gallery, k1, k2, lambda_value
):
  """The method from its definition, an image and a set at a time."""
  queries, gallery = query_gallery.shape
  images = range(queries + gallery)
  d = np.block(
    [[query_query, query_gallery], [query_gallery.T, gallery_gallery]]
  )
  d = np.square(d.astype(np.float32))
  d = d / np.maximum(d.max(axis=1), 1e-30)[:, None]
  order = [sorted(images, key=lambda j, i=i: (d[i][j], j)) for i in images]

  def reciprocal_neighbours(i, k):
    return {j for j in order[i][:k] if i in order[j][:k]}

  v = np.zeros(d.shape)
  for i in images:
    base = reciprocal_neighbours(i, k1 + 1)
    expanded = set(base)
    for j in base:
      candidates = reciprocal_neighbours(j, round(k1 / 2) + 1)
      if len(candidates & base) > len(candidates) * 2 / 3:
        expanded |= candidates
    total = sum(np.exp(-d[i][j]) for j in expanded)
    for j in expanded:
      v[i][j] = np.exp(-d[i][j]) / total
  if k2 > 1:
    v = np.array([np.mean([v[j] for j in order[i][:k2]], 0) for i in images])
  found = np.empty((queries, gallery))
  for i in range(queries):
    for g in range(gallery):
      s = np.minimum(v[i], v[queries + g]).sum()
      jaccard = 1 - s / (2 - s)
      found[i, g] = (1 - lambda_value) * jaccard
      found[i, g] += lambda_value * d[i, queries + g]
  return found


def _embeddings(queries, gallery, seed=0, identities=6, width=12):
  rng = np.random.default_rng(seed)
  centre = 2 * rng.standard_normal((identities, width))
  return tuple(
    (
      centre[rng.integers(0, identities, n)]
      + rng.standard_normal((n, width)) * rng.uniform(0.5, 2, (n, 1))
    ).astype(np.float32)
    for n in (queries, gallery)
  )


def _exact(a, b):
  return np.sqrt(np.square(a[:, None] - b[None]).sum(2)).astype(np.float32)


def _distances(query, gallery):
  return (
    _exact(query, query),
    _exact(query, gallery),
    _exact(gallery, gallery),
  )


@pytest.mark.parametrize(
  ('queries', 'gallery', 'k1', 'k2', 'lambda_value'),
  [
    (40, 27, 20, 6, 0.3),
    (40, 27, 7, 1, 0.0),
    (13, 50, 5, 9, 1.0),  # round(2.5) is 2; k2 above k1 + 1
    (13, 50, 1, 2, 0.6),
    (13, 7, 40, 30, 0.3),  # k1 and k2 above N
    (1, 1, 20, 6, 0.3),
    (1, 9, 20, 6, 0.3),
    (9, 1, 3, 2, 0.3),
  ],
)
def test_equals_a_plain_loop(queries, gallery, k1, k2, lambda_value):
  for seed in range(2):
    distances = _distances(*_embeddings(queries, gallery, seed))
    expected = _loop_k_reciprocal(*distances, k1, k2, lambda_value)
    found = k_reciprocal_from_distance(*distances, k1, k2, lambda_value)
    assert found.dtype == jnp.float32
    assert_allclose(found, expected, atol=2e-6)


def test_coincident_images_and_ties():
  rng = np.random.default_rng(3)
  points = rng.integers(0, 3, (60, 2)).astype(np.float32)
  # At each of nine places about as many images as a list is long.
  distances = _distances(points[:25], points[25:])
  for k1, k2 in ((4, 3), (20, 1)):
    expected = _loop_k_reciprocal(*distances, k1, k2, 0.3)
    found = k_reciprocal_from_distance(*distances, k1, k2)
    assert_allclose(found, expected, atol=2e-6)


def test_all_images_alike():
  nothing = np.zeros((5, 5), np.float32)
  found = k_reciprocal_from_distance(nothing, nothing, nothing, 3, 2)
  assert_allclose(
    found, _loop_k_reciprocal(nothing, nothing, nothing, 3, 2, 0.3), atol=1e-6
  )


def test_blocks_and_tiles_change_nothing(monkeypatch):
  query, gallery = _embeddings(40, 27)
  whole = k_reciprocal(query, gallery)
  monkeypatch.setattr(reciprocal, '_BLOCK', 700)
  monkeypatch.setattr(reciprocal, '_WIDTH_STEP', 1)
  monkeypatch.setattr(rerank, '_TILE', (16, 10))
  monkeypatch.setattr(rerank, '_EMBEDDINGS', 11)
  assert_allclose(k_reciprocal(query, gallery), whole, atol=1e-5)


def test_from_embeddings():
  query, gallery = _embeddings(33, 21)
  expected = k_reciprocal_from_distance(*_distances(query, gallery), 9, 4, 0.2)
  assert_allclose(k_reciprocal(query, gallery, 9, 4, 0.2), expected, atol=1e-5)
  one = k_reciprocal(query[:, None], jnp.asarray(gallery)[:, None], 9, 4, 0.2)
  assert_allclose(one, expected, atol=1e-5)


@pytest.mark.parametrize('size', [5, 11, 100])
def test_tiled_distances(size):
  query, gallery = map(jnp.asarray, _embeddings(33, 21))
  for a, b, symmetric in ((query, gallery, False), (query, query, True)):
    found = rerank._tiled(a, b, symmetric, size)
    # Near 0 the rounding of the squares shows.
    assert_allclose(found, pairwise_euclidean(a, b), rtol=1e-4, atol=0.01)
    assert not symmetric or (found == found.T).all()


def test_distances_are_squared_once():
  query, gallery = _embeddings(6, 5)
  distances = _distances(query, gallery)
  found = k_reciprocal_from_distance(*distances, lambda_value=1.0)
  rows = np.concatenate(distances[:2], axis=1)
  expected = np.square(distances[1] / rows.max(axis=1)[:, None])
  assert_allclose(found, expected, rtol=1e-5)


def test_neighbours_in_common_bring_images_together():
  # A chain: 0 and 5 are far apart, but of one line; 6 is nearer, alone.
  points = np.array([[0], [1], [2], [3], [4], [5], [-4], [40]], np.float32)
  distances = _distances(points[:1], points[1:])
  plain = distances[1][0]
  found = np.asarray(
    k_reciprocal_from_distance(*distances, k1=5, k2=1, lambda_value=0.0)
  )[0]
  assert plain[4] > plain[5]
  assert found[4] < found[5]


def test_sharded_distances():
  mesh = jax.make_mesh(
    (8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  sharding = jax.NamedSharding(mesh, jax.P('data'))
  distances = _distances(*_embeddings(24, 16))
  sharded = [jax.device_put(x, sharding) for x in distances]
  expected = k_reciprocal_from_distance(*distances, 6, 3)
  found = k_reciprocal_from_distance(*sharded, 6, 3)
  assert_allclose(found, expected, atol=1e-6)


def test_the_arguments_are_not_changed():
  distances = _distances(*_embeddings(8, 6))
  copies = [x.copy() for x in distances]
  k_reciprocal_from_distance(*distances)
  for x, y in zip(distances, copies, strict=True):
    assert_array_equal(x, y)


@pytest.mark.parametrize('bad', [np.nan, np.inf, -0.5, 1e30])
@pytest.mark.parametrize(
  ('part', 'message'), [(0, 'query image 2'), (2, 'gallery image 2')]
)
def test_broken_distances_are_refused(bad, part, message):
  distances = _distances(*_embeddings(8, 6))
  distances[part][2, 4] = bad
  with pytest.raises(ValueError, match=message):
    k_reciprocal_from_distance(*distances)


def test_broken_embeddings_are_refused():
  query, gallery = _embeddings(8, 6)
  gallery[3, 2] = np.nan
  with pytest.raises(ValueError, match='gallery embeddings hold NaN'):
    k_reciprocal(query, gallery)


def test_embeddings_of_two_modalities_are_refused():
  query, gallery = _embeddings(8, 6)
  with pytest.raises(ValueError, match="use test_distance='plain'"):
    k_reciprocal(query[:, None], np.stack([gallery, gallery], axis=1))


def test_embeddings_of_other_shapes_are_refused():
  query, gallery = _embeddings(8, 6)
  for wrong in (query[None, None], query[:0]):
    with pytest.raises(ValueError, match=r'as \[N, D\]'):
      k_reciprocal(wrong, gallery)
  with pytest.raises((TypeError, ValueError)):
    k_reciprocal(query[:, :5], gallery)


@pytest.mark.parametrize(
  'shapes',
  [
    ((3, 3), (3, 4), (4, 5)),
    ((3, 2), (3, 4), (4, 4)),
    ((4, 4), (4, 3), (4, 4)),
    ((0, 0), (0, 4), (4, 4)),
    ((3, 3), (3,), (3, 3)),
  ],
)
def test_distances_of_other_shapes_are_refused(shapes):
  with pytest.raises(ValueError, match=r'\[Nq, Nq\], \[Nq, Ng\] and'):
    rerank._check_shapes(*shapes)
  with pytest.raises((TypeError, ValueError)):
    k_reciprocal_from_distance(*(np.ones(x, np.float32) for x in shapes))


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'k1': 0}, 'at least 1; got 0 and 6'),
    ({'k2': -1}, 'at least 1; got 20 and -1'),
    ({'lambda_value': 1.5}, 'from 0 to 1, not 1.5'),
    ({'lambda_value': float('nan')}, 'from 0 to 1'),
  ],
)
def test_parameters_out_of_range_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    k_reciprocal_from_distance(*_distances(*_embeddings(4, 3)), **options)
