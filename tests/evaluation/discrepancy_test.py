import math
import statistics

import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxreid.evaluation.discrepancy import (
  maximum_mean_discrepancy,
  median_squared_distance,
)


def _squared(u, v):
  return sum((float(x) - float(y)) ** 2 for x, y in zip(u, v, strict=True))


def _loop(a, b, scale):
  def kernel(u, v):
    return sum(
      math.exp(-_squared(u, v) / (2 * width * scale))
      for width in (0.25, 0.5, 1, 2, 4)
    )

  def within(x):
    values = [
      kernel(u, v) for i, u in enumerate(x) for j, v in enumerate(x) if i != j
    ]
    return sum(values) / len(values)

  across = [kernel(u, v) for u in a for v in b]
  return within(a) + within(b) - 2 * sum(across) / len(across)


def _sample(seed, n, shift=0.0):
  rng = np.random.default_rng(seed)
  return (shift + rng.normal(size=(n, 3))).astype(np.float32)


def test_equals_a_plain_loop():
  a, b = _sample(0, 7), _sample(1, 9, shift=0.7)
  pooled = [*a, *b]
  pairs = [
    _squared(u, v) for i, u in enumerate(pooled) for v in pooled[i + 1 :]
  ]
  scale = statistics.median(pairs)
  assert_allclose(median_squared_distance(a, b), scale, rtol=1e-4)
  assert_allclose(maximum_mean_discrepancy(a, b), _loop(a, b, scale), rtol=1e-4)
  assert_allclose(
    maximum_mean_discrepancy(a, b, 2.5), _loop(a, b, 2.5), rtol=1e-4
  )


def test_grows_with_the_shift_and_is_unbiased():
  shifts = [
    maximum_mean_discrepancy(_sample(0, 200), _sample(1, 200, shift))
    for shift in (0.0, 0.5, 1.0)
  ]
  assert abs(shifts[0]) < 0.05 < shifts[1] < shifts[2]
  small = [
    maximum_mean_discrepancy(_sample(2 * k, 10), _sample(2 * k + 1, 10), 3.0)
    for k in range(40)
  ]
  assert abs(np.mean(small)) < 2 * np.std(small) / math.sqrt(40)
  assert min(small) < 0


def test_rows_are_evenly_spaced():
  a, b = _sample(0, 10), _sample(1, 6)
  thinned = maximum_mean_discrepancy(a, b, 1.0, rows=5)
  assert_allclose(thinned, _loop(a[::2], b[:5], 1.0), rtol=1e-4)


def test_errors():
  with pytest.raises(ValueError, match='got 1 and 5'):
    maximum_mean_discrepancy(_sample(0, 1), _sample(0, 5))
