"""Ranked lists against a plain loop, and who may be in them."""

import numpy as np
import pytest

from jaxreid.data.source import INFRARED, VISIBLE, Records
from jaxreid.evaluation.embedding import Embedded
from jaxreid.evaluation.evaluate import evaluate
from jaxreid.evaluation.protocols import Protocol, Trial
from jaxreid.evaluation.retrieval import find_lists


@pytest.fixture(scope='module')
def search():
  """14 infrared queries, 40 visible images, few locations; two embeddings."""
  rng = np.random.default_rng(3)
  n = 54
  modality = np.repeat([INFRARED, VISIBLE], [14, 40])
  identity = rng.integers(0, 6, n)
  identity[0] = 99  # a query without any match
  location = rng.integers(0, 3, n)
  ones = np.ones(n, np.int64)
  records = Records(identity, location, location, modality, ones, ones)
  order = rng.permutation(n)
  queries = rng.permutation(14)
  gallery = rng.permutation(np.arange(14, n))
  trial = Trial(queries, gallery, records)
  later = Trial(queries[:1], gallery[:1], records)
  protocol = Protocol('i->v', 'infrared', 'visible', [trial, later], False)
  features = rng.normal(size=(n, 2, 5)).astype(np.float32)
  rows = {m: order[modality[order] == m] for m in (INFRARED, VISIBLE)}
  embeddings = {
    'infrared': Embedded(rows[INFRARED], features[rows[INFRARED]][:, :1]),
    'visible': Embedded(rows[VISIBLE], features[rows[VISIBLE]]),
  }
  return embeddings, protocol, features, records


def plain(features, records, trial, query, kind):
  """(distance, row, right) of all comparable images, sorted."""
  found = []
  for row in trial.gallery_rows:
    if records.location[row] == records.location[query]:
      continue
    parts = [
      np.sqrt(((features[query, 0] - features[row, j]) ** 2).sum())
      for j in range(2 if kind == 'sum' else 1)
    ]
    right = records.identity[row] == records.identity[query]
    found.append((sum(parts), row, right))
  found.sort(key=lambda x: x[0])
  return found


@pytest.mark.parametrize('kind', ['sum', 'plain', 'both'])
@pytest.mark.parametrize('which', ['random', 'best', 'worst'])
def test_equals_a_plain_loop(search, kind, which):
  embeddings, protocol, features, records = search
  lists = find_lists(embeddings, protocol, kind, which, count=5, top=7)
  assert len(lists) == 5
  for found in lists:
    assert found.query in protocol.trials[0].query_rows
    expected = plain(
      features,
      records,
      protocol.trials[0],
      found.query,
      'plain' if kind == 'plain' else 'sum',
    )
    np.testing.assert_array_equal(found.gallery, [e[1] for e in expected[:7]])
    np.testing.assert_allclose(
      found.distance, [e[0] for e in expected[:7]], rtol=1e-4
    )
    np.testing.assert_array_equal(found.right, [e[2] for e in expected[:7]])
    hits = [i for i, e in enumerate(expected, 1) if e[2]]
    ap = np.mean([k / place for k, place in enumerate(hits, 1)])
    assert found.average_precision == pytest.approx(ap)


def test_all_average_precisions_make_the_map(search):
  embeddings, protocol, _, _ = search
  first = protocol._replace(trials=protocol.trials[:1])
  (result,) = evaluate(embeddings, [first]).values()
  lists = find_lists(embeddings, protocol, which='best', count=100)
  assert len(lists) == result.queries < 14
  ap = [found.average_precision for found in lists]
  assert 100 * np.mean(ap) == pytest.approx(result.mAP, rel=1e-5)
  assert ap == sorted(ap, reverse=True)
  worst = find_lists(embeddings, protocol, which='worst', count=3)
  assert [w.average_precision for w in worst] == ap[::-1][:3]


def test_places_of_the_same_location_stay_empty(search):
  embeddings, protocol, _, records = search
  for found in find_lists(embeddings, protocol, count=99, top=99):
    there = records.location[found.gallery]
    assert (there != records.location[found.query]).all()
    assert records.identity[found.query] != 99


def test_the_seed_chooses(search):
  embeddings, protocol, _, _ = search

  def chosen(seed):
    return [
      found.query
      for found in find_lists(embeddings, protocol, count=4, seed=seed)
    ]

  assert chosen(0) == chosen(0)
  assert len({tuple(chosen(seed)) for seed in range(6)}) > 1
  with pytest.raises(ValueError, match="not 'good'"):
    find_lists(embeddings, protocol, which='good')
