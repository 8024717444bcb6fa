import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxreid.data.source import Records
from jaxreid.evaluation import evaluate as evaluate_module
from jaxreid.evaluation.evaluate import (
  Embedded,
  Result,
  embed_all,
  evaluate,
  format_table,
)
from jaxreid.evaluation.protocols import single_modality, sysu
from jaxreid.evaluation.ranking import rank


def _images(n=21):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (n, 4, 2, 3)).astype(np.uint8)


def _project(weights, images):
  flat = images.reshape(len(images), -1).astype(jnp.float32) / 255
  return jnp.stack([flat @ weights, flat @ weights[::-1]], axis=1)


def _weights(seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(24, 5)).astype(np.float32)


@pytest.mark.parametrize('batch_size', [4, 7, 64])
def test_embed_all_pads_and_crops(batch_size):
  embed = functools.partial(_project, _weights())
  features = embed_all(embed, _images(), batch_size, progress=False)
  assert features.dtype == np.float32
  assert_allclose(features, embed(jnp.asarray(_images())), rtol=1e-5)


def test_embed_all_rows_keep_their_order():
  embed = functools.partial(_project, _weights())
  rows = np.array([20, 3, 3, 0, 11])
  features = embed_all(embed, _images(), 2, rows=rows, progress='gray')
  assert_allclose(features, embed(jnp.asarray(_images()[rows])), rtol=1e-5)


def test_embed_all_sharded():
  mesh = jax.make_mesh(
    (8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  sharding = jax.NamedSharding(mesh, jax.P('data'))
  embed = jax.tree_util.Partial(_project, _weights())
  features = embed_all(embed, _images(), 8, sharding, progress=False)
  assert_allclose(features, embed(jnp.asarray(_images())), rtol=1e-5)
  with pytest.raises(ValueError, match=r'12 images .* over 8 devices'):
    embed_all(embed, _images(), 12, sharding)


def test_embed_all_compiles_once_for_other_parameters():
  traces = []

  def counted(weights, images):
    traces.append(1)
    return _project(weights, images)

  for seed in range(3):
    embed = jax.tree_util.Partial(counted, _weights(seed))
    features = embed_all(embed, _images(), 8, progress=False)
    expected = _project(_weights(seed), jnp.asarray(_images()))
    assert_allclose(features, expected, rtol=1e-5)
  assert len(traces) == 1


def test_embed_all_needs_images():
  with pytest.raises(ValueError, match='no images'):
    embed_all(functools.partial(_project, _weights()), _images(0), 4)


def _records():
  """4 identities, 6 cameras, 3 images each, in a mixed order."""
  rows = [
    (i, c, f) for f in range(3) for c in range(1, 7) for i in (8, 2, 5, 3)
  ]
  identity, camera, frame = (np.array(x) for x in zip(*rows, strict=True))
  location = np.array([0, 1, 2, 2, 4, 5, 6])[camera]
  modality = np.isin(camera, [3, 6]).astype(int)
  return Records(identity, camera, location, modality, frame, 0 * frame)


def _embeddings(records, visible_vectors=1):
  """Features around a centre per identity; the rows in a random order."""
  rng = np.random.default_rng(1)
  centres = rng.normal(size=(9, 5))
  embeddings = {}
  for name, kind, count in (
    ('visible', 0, visible_vectors),
    ('infrared', 1, 1),
    ('gray', 0, 1),
  ):
    rows = rng.permutation(np.flatnonzero(records.modality == kind))
    noise = rng.normal(size=(len(rows), count, 5))
    features = centres[records.identity[rows]][:, None, :] + noise
    embeddings[name] = Embedded(rows, features.astype(np.float32))
  return embeddings


def _loop_distance(left, right, i, j, kind):
  u = left.features[left.rows.tolist().index(i)].astype(float)
  v = right.features[right.rows.tolist().index(j)].astype(float)
  if kind == 'plain':
    u, v = u[:1], v[:1]
  return sum(math.dist(x, y) for x in u for y in v)


def _loop_evaluate(embeddings, protocol, kind):
  left = embeddings[protocol.query_modality]
  right = embeddings[protocol.gallery_modality]
  cmc, ap, inp = [], [], []
  for trial in protocol.trials:
    distance = [
      [_loop_distance(left, right, i, j, kind) for j in trial.gallery_rows]
      for i in trial.query_rows
    ]
    ranking = rank(
      np.array(distance, np.float32),
      trial.query_ids,
      trial.gallery_ids,
      trial.comparable,
      protocol.unique_identities,
    )
    cmc.append(ranking.cmc)
    ap.append(ranking.mean_ap)
    inp.append(ranking.mean_inp)
  cmc = 100 * np.array(cmc)
  mean = cmc.mean(axis=0)[[0, 4, 9, 19]]
  ap = 100 * np.array(ap)
  deviation = [np.std(cmc[:, 0], ddof=1), np.std(ap, ddof=1)]
  return [*mean, ap.mean(), 100 * np.mean(inp), *deviation]


@pytest.mark.parametrize('kept', [0, 10**8])
@pytest.mark.parametrize(
  ('vectors', 'kind', 'suffix'),
  [
    (1, 'sum', ''),
    (2, 'sum', ', sum over modalities'),
    (2, 'plain', ', first of modalities'),
  ],
)
def test_evaluate(monkeypatch, kept, vectors, kind, suffix):
  monkeypatch.setattr(evaluate_module, '_KEPT_ENTRIES', kept)
  records = _records()
  embeddings = _embeddings(records, vectors)
  protocols = [
    sysu(records, 'all', trials=3),
    sysu(records, 'indoor', shots=2, trials=3),
    single_modality(records, 'infrared', 'infrared', shots=2, trials=2),
    single_modality(records, 'infrared', 'gray', shots=3, trials=2),
  ]
  results = evaluate(embeddings, protocols, kind)
  suffixes = [suffix, suffix, '', '']
  names = [p.name + s for p, s in zip(protocols, suffixes, strict=True)]
  assert list(results) == names
  for name, protocol in zip(names, protocols, strict=True):
    expected = _loop_evaluate(embeddings, protocol, kind)
    assert_allclose(results[name][:8], expected, rtol=1e-4, atol=1e-4)
  assert results[names[0]].trials == 3
  assert results[names[0]].gallery == 16
  assert (results[names[1]].queries, results[names[1]].skipped) == (24, 0)


def test_evaluate_a_part_of_the_queries():
  records = _records()
  embeddings = _embeddings(records)
  protocol = sysu(records, trials=2)
  fewer = [t._replace(query_rows=t.query_rows[5:9]) for t in protocol.trials]
  protocol = protocol._replace(trials=fewer)
  (result,) = evaluate(embeddings, [protocol]).values()
  assert result.queries == 4
  expected = _loop_evaluate(embeddings, protocol, 'sum')
  assert_allclose(result[:8], expected, rtol=1e-4, atol=1e-4)


def test_evaluate_errors():
  records = _records()
  protocol = sysu(records, trials=1)
  embeddings = _embeddings(records)
  with pytest.raises(ValueError, match=r"'visible'; there are \['infrared'\]"):
    evaluate({'infrared': embeddings['infrared']}, [protocol])
  short = Embedded(*(x[:-1] for x in embeddings['infrared']))
  with pytest.raises(ValueError, match='needs 1 images that are not embedded'):
    evaluate({**embeddings, 'infrared': short}, [protocol])
  embeddings['visible'].features[2, 0, 1] = np.nan
  with pytest.raises(ValueError, match="the 'visible' images hold NaN"):
    evaluate(embeddings, [protocol])


def test_format_table():
  result = Result(
    12.345, 50, 60, 70, 8, 1.5, 0.25, 0.125, 10, 3803, 0, 301, True, 'sum', 'x'
  )
  table = format_table({'short': result, 'a longer name': result})
  lines = table.splitlines()
  assert len({len(line) for line in lines[:4]}) == 1
  assert lines[2].startswith('| short         | 12.35 ± 0.25 |')
  assert '8.00 ± 0.12' in lines[3]
  assert set(lines[1]) <= set('|-: ')
  assert lines[5].endswith('Galleries x. CMC counts identities.')
