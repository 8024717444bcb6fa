"""MAG against plain loops, and the statistics of its rectangles."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_array_equal

from jaxreid.augment.exchange import draw_exchanges, exchange, swap
from jaxreid.augment.geometry import Rectangle

DOCS = pathlib.Path(__file__).parents[2] / 'docs'
N, H, W = 6, 9, 7
KEY = jax.random.key(4)


def _pair(count=N, dtype=np.uint8):
  """Visible pixels are even, infrared ones odd."""
  rng = np.random.default_rng(3)
  v, t = rng.integers(0, 128, (2, count, H, W, 3))
  return jnp.asarray(2 * v, dtype), jnp.asarray(2 * t + 1, dtype)


def _swap_oracle(visible, infrared, rectangles):
  v, t = np.array(visible), np.array(infrared)
  for i, (top, left, height, width) in enumerate(
    zip(*map(np.asarray, rectangles), strict=True)
  ):
    for row in range(top, top + height):
      for column in range(left, left + width):
        for channel in range(v.shape[3]):
          place = (i, row, column, channel)
          v[place], t[place] = int(infrared[place]), int(visible[place])
  return v, t


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_swap_agrees_with_loops(dtype):
  pair = _pair(dtype=dtype)
  rectangles = Rectangle(
    *(jnp.array(v) for v in ([0, 2, 3, 0, 8, 4], [1, 0, 2, 0, 5, 6])),
    *(jnp.array(v) for v in ([4, 0, 6, 9, 1, 2], [2, 0, 4, 7, 1, 1])),
  )
  found = swap(*pair, rectangles)
  for image, expected in zip(
    found, _swap_oracle(*pair, rectangles), strict=True
  ):
    assert image.dtype == dtype
    assert_array_equal(image, expected)


def test_exchange_is_its_draw_followed_by_a_swap():
  pair = _pair()
  rectangles = draw_exchanges(KEY, N, (H, W), 0.8)
  expected = _swap_oracle(*pair, rectangles)
  for run in (exchange, jax.jit(exchange, static_argnums=(3, 4, 5))):
    found = run(KEY, *pair, 0.8)
    for image, other in zip(found, expected, strict=True):
      assert_array_equal(image, other)
  assert (expected[0] != pair[0]).any()


def test_a_pair_exchanges_one_rectangle_and_loses_nothing():
  visible, infrared = _pair(200)
  new_visible, new_infrared = exchange(KEY, visible, infrared)
  swapped = np.asarray(new_visible) % 2 == 1
  # Both images, at the same place, in all channels.
  assert_array_equal(np.asarray(new_infrared) % 2 == 0, swapped)
  assert_array_equal(swapped[..., :1] & np.ones(3, bool), swapped)
  assert_array_equal(
    np.where(swapped, new_infrared, new_visible), np.asarray(visible)
  )
  assert_array_equal(
    np.where(swapped, new_visible, new_infrared), np.asarray(infrared)
  )
  places = {}
  for i, mask in enumerate(swapped[..., 0]):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert mask.sum() == len(rows) * len(columns)
    for ends in (rows, columns):
      assert_array_equal(np.diff(ends), np.ones(max(len(ends) - 1, 0)))
    places[i] = (*rows[:1], *columns[:1])
  count = sum(place != () for place in places.values())
  assert 70 < count < 130
  assert len(set(places.values())) > 20


@pytest.mark.parametrize('probability', [0.0, 0.3, 1.0])
def test_the_probability_is_that_of_a_pair(probability):
  drawn = draw_exchanges(KEY, 4000, (224, 224), probability)
  assert abs(float((drawn.height > 0).mean()) - probability) < 0.03
  assert_array_equal(drawn.height > 0, drawn.width > 0)


def _reference(count, size, area, aspect):
  """Section 4.3 of the paper, with its own random numbers."""
  rng = np.random.default_rng(0)
  found = []
  for _ in range(count):
    s = size[0] * size[1]
    a, r = rng.uniform(*area), rng.uniform(*aspect)
    h, w = (s * a * r) ** 0.5, (s * a / r) ** 0.5
    y, x = rng.uniform(0, size[0]), rng.uniform(0, size[1])
    rows = [k for k in range(size[0]) if y - h / 2 <= k + 0.5 < y + h / 2]
    columns = [k for k in range(size[1]) if x - w / 2 <= k + 0.5 < x + w / 2]
    found.append((rows[0], columns[0], len(rows), len(columns)))
  return np.array(found).T


@pytest.mark.parametrize('size', [(96, 48), (64, 64)])
def test_rectangles_are_distributed_as_in_the_paper(size):
  area, aspect = (0.05, 0.3), (0.4, 2.0)
  drawn = draw_exchanges(KEY, 3000, size, 1.0, area, aspect)
  expected = _reference(3000, size, area, aspect)
  for ours, theirs in zip(map(np.asarray, drawn), expected, strict=True):
    for quantile in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
      gap = np.quantile(ours, quantile) - np.quantile(theirs, quantile)
      assert abs(gap) <= 0.05 * max(size)
    assert abs(ours.mean() - theirs.mean()) < 0.02 * max(size)


def test_rectangles_end_at_the_border():
  top, left, height, width = map(
    np.asarray, draw_exchanges(KEY, 2000, (H, W), 1.0, (0.3, 0.9))
  )
  assert top.min() == left.min() == 0
  assert (top + height).max() == H
  assert (left + width).max() == W


def test_whole_rectangles_have_the_drawn_area_and_aspect():
  size = (288, 144)
  drawn = draw_exchanges(KEY, 4000, size, 1.0, (0.05, 0.1), (1.0, 2.0))
  top, left, height, width = map(np.asarray, drawn)
  whole = (top > 0) & (left > 0)
  whole &= (top + height < size[0]) & (left + width < size[1])
  assert whole.mean() > 0.4
  share = (height * width)[whole] / (size[0] * size[1])
  ratio = (height / width)[whole]
  assert 0.047 < share.min() < 0.052 and 0.098 < share.max() < 0.103
  assert 0.95 < ratio.min() < 1.03 and 1.95 < ratio.max() < 2.07


def test_keys_decide():
  pair = _pair(50)
  first = exchange(KEY, *pair)[0]
  assert_array_equal(first, exchange(KEY, *pair)[0])
  assert (first != exchange(jax.random.key(5), *pair)[0]).any()


def test_one_device_equals_eight():
  pair = _pair(16)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  rows = NamedSharding(mesh, PartitionSpec('data'))
  run = jax.jit(functools.partial(exchange, probability=1.0))
  for left, right in zip(
    run(KEY, *pair), run(KEY, *jax.device_put(pair, rows)), strict=True
  ):
    assert_array_equal(left, right)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'probability': 1.5}, r'exchange.probability .*1.5'),
    ({'area': (0.4, 0.02)}, r'exchange.area .*\(0.4, 0.02\)'),
    ({'area': (0.4, 1.02)}, r'exchange.area .*1.02'),
    ({'aspect': (0.0, 3.0)}, r'exchange.aspect .*\(0.0, 3.0\)'),
    ({'aspect': (3.0, 0.3)}, r'exchange.aspect .*\(3.0, 0.3\)'),
  ],
)
def test_numbers_out_of_range_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    exchange(KEY, *_pair(), **options)


def test_sets_that_do_not_align_are_named():
  visible, infrared = _pair()
  with pytest.raises(ValueError, match='one shape and dtype'):
    exchange(KEY, visible, infrared.astype(jnp.float32))
  # Checked at run time in these tests, and by `exchange` elsewhere.
  for other in (infrared[:-1], infrared[..., :1]):
    with pytest.raises((TypeError, ValueError)):
      exchange(KEY, visible, other)


def test_the_example_of_the_docs_runs():
  text = (DOCS / 'exchange.md').read_text()
  (example,) = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
  names: dict = {}
  exec(example, names)
  assert float(names['loss']) > 0
  assert set(np.unique(names['visible'])) == {50, 200}
