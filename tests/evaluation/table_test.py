import statistics

import numpy as np
import pytest

from jaxreid.evaluation.table import Result, format_table, mean_of_splits

FIELDS = ('rank1', 'rank5', 'rank10', 'rank20', 'mAP', 'mINP')


def _result(seed=0):
  values = np.random.default_rng(seed).uniform(0, 100, 8).tolist()
  return Result(*values, 1, 2060, 3, 2060, False, 'sum', 'x')


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


def test_mean_of_splits():
  splits = [{'a': _result(3 * k), 'b': _result(3 * k + 1)} for k in range(4)]
  joined = mean_of_splits(splits)
  assert list(joined) == ['a', 'b']
  for name, found in joined.items():
    results = [split[name] for split in splits]
    for field in FIELDS:
      values = [getattr(result, field) for result in results]
      assert getattr(found, field) == pytest.approx(statistics.mean(values))
    # Over the splits; a split's own deviation over draws is something else.
    for field in ('rank1', 'mAP'):
      values = [getattr(result, field) for result in results]
      expected = pytest.approx(statistics.stdev(values))
      assert getattr(found, f'{field}_std') == expected
    assert (found.trials, found.queries, found.skipped) == (4, 2060, 3)
  assert mean_of_splits(splits[:1])['a'].rank1_std == 0
