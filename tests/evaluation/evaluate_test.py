import math

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxreid.data.source import Records
from jaxreid.evaluation import evaluate as evaluate_module
from jaxreid.evaluation.embedding import Embedded
from jaxreid.evaluation.evaluate import evaluate
from jaxreid.evaluation.protocols import regdb, single_modality, sysu
from jaxreid.evaluation.ranking import rank
from jaxreid.evaluation.rerank import k_reciprocal


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


def test_both_distances_in_one_table():
  records = _records()
  embeddings = _embeddings(records, 2)
  protocols = [
    sysu(records, 'all', trials=2),
    single_modality(records, 'infrared', 'infrared', shots=2, trials=2),
  ]
  both = evaluate(embeddings, iter(protocols), 'both')
  by_sum = evaluate(embeddings, protocols, 'sum')
  by_first = evaluate(embeddings, protocols, 'plain')
  # One embedding on either side: one search, one row.
  across, within = protocols[0].name, protocols[1].name
  assert list(both) == [
    f'{across}, sum over modalities',
    within,
    f'{across}, first of modalities',
  ]
  assert both == {**by_sum, **by_first}
  assert len(set(result.rank1 for result in both.values())) == 3
  again = evaluate(embeddings, protocols[:1], 'both', rerank=True)
  assert [name for name in again if 're-ranked' in name] == [
    f'{across}, first of modalities, re-ranked'
  ]


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


@pytest.mark.parametrize(
  ('options', 'suffix'),
  [
    ({'average_precision': 'trapezoid'}, ', trapezoid AP'),
    ({'suffix': ', flip-averaged'}, ', flip-averaged'),
    (
      {'average_precision': 'trapezoid', 'suffix': ', flip-averaged'},
      ', trapezoid AP, flip-averaged',
    ),
  ],
)
def test_what_sets_a_result_apart_is_in_its_name(options, suffix):
  records = _records()
  protocols = [sysu(records, trials=2), regdb(records, 'visible')]
  embeddings = _embeddings(records)
  found = evaluate(embeddings, protocols, rerank=True, **options)
  assert list(found) == [
    f'infrared->visible, all, single-shot{suffix}',
    f'infrared->visible, all, single-shot{suffix}, re-ranked',
    f'visible->infrared{suffix}',
    f'visible->infrared{suffix}, re-ranked',
  ]
  plain = evaluate(embeddings, protocols)
  if 'average_precision' in options:
    name = 'visible->infrared'
    assert found[name + suffix].mAP != plain[name].mAP
    assert found[name + suffix].rank1 == plain[name].rank1


def test_reranked_rows():
  records = _records()
  embeddings = _embeddings(records)
  protocol = sysu(records, 'all', shots=2, trials=3)
  found = evaluate(embeddings, [protocol], rerank=True)
  assert found[protocol.name] == evaluate(embeddings, [protocol])[protocol.name]
  result = found[f'{protocol.name}, re-ranked']
  expected = []
  for trial in protocol.trials:
    query, gallery = (
      embeddings[name].features[
        [embeddings[name].rows.tolist().index(row) for row in rows], 0
      ]
      for name, rows in (
        ('infrared', trial.query_rows),
        ('visible', trial.gallery_rows),
      )
    )
    ranking = rank(
      k_reciprocal(jnp.asarray(query), jnp.asarray(gallery)),
      trial.query_ids,
      trial.gallery_ids,
      trial.comparable,
      unique_identities=True,
    )
    expected.append([100 * ranking.cmc[0], 100 * ranking.mean_ap])
  assert_allclose([result.rank1, result.mAP], np.mean(expected, axis=0), 1e-5)
  # Searches within a modality are not re-ranked.
  single = single_modality(records, 'infrared', 'infrared', 2, 2)
  assert len(evaluate(embeddings, [single], rerank=True)) == 1


def test_sums_of_distances_are_not_reranked():
  records = _records()
  embeddings = _embeddings(records, visible_vectors=2)
  protocol = sysu(records, trials=1)
  with pytest.raises(ValueError, match="test_distance='plain'"):
    evaluate(embeddings, [protocol], rerank=True)
  found = evaluate(embeddings, [protocol], 'plain', rerank=True)
  first = Embedded(
    embeddings['visible'].rows, embeddings['visible'].features[:, :1]
  )
  same = evaluate({**embeddings, 'visible': first}, [protocol], rerank=True)
  assert [r[:6] for r in found.values()] == [r[:6] for r in same.values()]
