import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxreid.models.window_attention import (
  WindowAttention,
  attention_mask,
  partition,
  relative_position_index,
  unpartition,
)

# ((h, w), window, shift): tiled, padded on one axis, on both, one window.
GRIDS = [
  ((4, 6), 2, 1),
  ((7, 6), 3, 1),
  ((5, 7), 3, 1),
  ((9, 5), 7, 3),
  ((2, 3), 3, 1),
]


def _shift(size, window, shift):
  return shift if size > window else 0


def _members(grid, window, shift):
  """[windows][tokens] -> (y, x), or None where there is only padding."""
  h, w = grid
  down, across = _shift(h, window, shift), _shift(w, window, shift)
  padded_h, padded_w = -(-h // window) * window, -(-w // window) * window
  members = []
  for top in range(0, padded_h, window):
    for left in range(0, padded_w, window):
      tokens = []
      for i in range(window):
        for j in range(window):
          y = (top + i + down) % padded_h
          x = (left + j + across) % padded_w
          tokens.append((y, x) if y < h and x < w else None)
      members.append(tokens)
  return members


@pytest.mark.parametrize(('grid', 'window', 'shift'), GRIDS)
def test_partition_against_plain_loops_and_back(grid, window, shift):
  x = np.random.default_rng(0).normal(size=(2, *grid, 3)).astype('f4')
  windows = partition(jnp.asarray(x), window, shift)
  members = _members(grid, window, shift)
  assert windows.shape == (2, len(members), window**2, 3)
  for i, tokens in enumerate(members):
    for j, place in enumerate(tokens):
      expected = x[:, place[0], place[1]] if place else np.zeros((2, 3))
      assert_allclose(windows[:, i, j], expected)
  assert_allclose(unpartition(windows, grid, window, shift), x)


def _meet(a, b, grid, window, shift):
  """Whether two tokens are in one window of the displaced, unbounded grid."""
  return all(
    (p - _shift(size, window, shift)) // window
    == (q - _shift(size, window, shift)) // window
    for p, q, size in zip(a, b, grid, strict=True)
  )


@pytest.mark.parametrize(('grid', 'window', 'shift'), GRIDS)
def test_mask_against_plain_loops(grid, window, shift):
  members = _members(grid, window, shift)
  mask = attention_mask(grid, window, shift)
  if mask is None:
    mask = np.ones((len(members), window**2, window**2), bool)
  for i, tokens in enumerate(members):
    for q, a in enumerate(tokens):
      for k, b in enumerate(tokens):
        if a:
          expected = bool(b) and _meet(a, b, grid, window, shift)
          assert mask[i, q, k] == expected, (a, b)
        # What padding attends to is nobody's business, but not nothing.
        assert mask[i, q].any()


def test_nothing_is_masked_where_windows_tile_unshifted():
  assert attention_mask((14, 7), 7, 0) is None
  assert attention_mask((7, 7), 7, 3) is None
  assert attention_mask((14, 7), 7, 3) is not None
  assert attention_mask((9, 5), 7, 0) is not None


def test_position_index_by_hand_and_by_loops():
  assert relative_position_index(2).tolist() == [
    [4, 3, 1, 0],
    [5, 4, 2, 1],
    [7, 6, 4, 3],
    [8, 7, 5, 4],
  ]
  index = relative_position_index(7)
  for q in range(49):
    for k in range(49):
      dy, dx = q // 7 - k // 7, q % 7 - k % 7
      assert index[q, k] == (dy + 6) * 13 + dx + 6


@pytest.mark.parametrize(('grid', 'window', 'shift'), GRIDS)
def test_attention_against_plain_loops(grid, window, shift):
  rng = np.random.default_rng(0)
  heads, d = 2, 3
  c = heads * d
  x = rng.normal(size=(1, *grid, c)).astype('f4')
  attention = WindowAttention(heads, window, shift)
  shapes = jax.eval_shape(
    lambda key: attention.init(key, jnp.asarray(x)), jax.random.key(0)
  )
  variables = jax.tree.map(lambda s: rng.normal(size=s.shape), shapes)
  params = variables['params']
  table = params['relative_position_bias_table']

  qkv = x[0] @ params['qkv']['kernel'] + params['qkv']['bias']
  places = list(np.ndindex(*grid))
  expected = np.zeros((*grid, c))
  for head in range(heads):
    for a in places:
      q = qkv[a][head * d : (head + 1) * d] / np.sqrt(d)
      near = [b for b in places if _meet(a, b, grid, window, shift)]
      scores = []
      for b in near:
        k = qkv[b][c + head * d : c + (head + 1) * d]
        dy, dx = a[0] - b[0] + window - 1, a[1] - b[1] + window - 1
        scores.append(q @ k + table[dy * (2 * window - 1) + dx, head])
      weights = np.exp(scores - np.max(scores))
      weights /= weights.sum()
      for weight, b in zip(weights, near, strict=True):
        v = qkv[b][2 * c + head * d : 2 * c + (head + 1) * d]
        expected[(*a, slice(head * d, (head + 1) * d))] += weight * v
  expected = expected @ params['proj']['kernel'] + params['proj']['bias']
  variables = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), variables)
  y = jax.jit(attention.apply)(variables, jnp.asarray(x))
  assert_allclose(y[0], expected, rtol=1e-3, atol=1e-4)


def test_gradients_are_finite_where_windows_are_padded():
  x = jax.random.normal(jax.random.key(1), (1, 5, 4, 4))
  attention = WindowAttention(2, 7, 3)
  variables = jax.jit(attention.init)(jax.random.key(0), x)
  gradient = jax.jit(
    jax.grad(lambda v, x: jnp.sum(jnp.sin(attention.apply(v, x))), (0, 1))
  )(variables, x)
  for leaf in jax.tree.leaves(gradient):
    assert jnp.isfinite(leaf).all()
    assert jnp.any(leaf != 0)
