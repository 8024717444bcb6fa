"""Self-attention within windows of a feature map (Liu et al., 2021).

Swin, https://arxiv.org/abs/2103.14030, section 3.2. Synopsis:

  attention = WindowAttention(heads=3, window=7, shift=3)
  y = attention.apply(variables, x)  # [N, h, w, C] -> [N, h, w, C]

The published code takes maps that windows tile. Here any size will do: the
map is padded at the bottom and on the right up to whole windows, and nothing
attends to the padding, so that the result does not depend on it.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

# The published code's "truncated" normal cuts at +-2, which is 100 deviations.
NORMAL = nn.initializers.normal(0.02)


class WindowAttention(nn.Module):
  """Multi-head attention within (shifted) windows, with position bias.

  softmax(q k' / sqrt(d) + B) v (the paper's Eq. 4), B looked up by the offset
  of query and key. Along an axis that one window covers nothing is shifted.

  Attributes:
    heads: number of heads; divides C.
    window: side of a window, in tokens.
    shift: by how many tokens the windows are displaced downwards and to the
      right; 0, or half a window in every second block.
    dtype: of the computation and the output; parameters are float32. The
      softmax is in float32 or better.
    kernel_init: what both linear maps start from.
  """

  heads: int
  window: int
  shift: int = 0
  dtype: DTypeLike | None = jnp.float32
  kernel_init: nn.initializers.Initializer = NORMAL

  @nn.compact
  def __call__(self, x: Float[Array, 'n h w c']) -> Float[Array, 'n h w c']:
    """Applies the attention to a map of any size."""
    n, h, w, c = x.shape
    grid = (h, w)
    qkv = self._dense(3 * c, 'qkv')(x)
    # After the projection: padding is masked out, whatever it holds.
    qkv = partition(qkv, self.window, self.shift)
    windows = qkv.shape[1]
    qkv = qkv.reshape(n, windows, -1, 3, self.heads, c // self.heads)
    q, k, v = (qkv[:, :, :, i] for i in range(3))
    q = q * (c // self.heads) ** -0.5
    scores = jnp.einsum('nwqhd,nwkhd->nwhqk', q, k)
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    scores += self._position_bias()[None, None]
    mask = attention_mask(grid, self.window, self.shift)
    if mask is not None:
      low = jnp.finfo(scores.dtype).min
      scores = jnp.where(mask[None, :, None], scores, low)
    weights = nn.softmax(scores).astype(v.dtype)
    y = jnp.einsum('nwhqk,nwkhd->nwqhd', weights, v)
    y = unpartition(y.reshape(n, windows, -1, c), grid, self.window, self.shift)
    return self._dense(c, 'proj')(y)

  def _dense(self, features: int, name: str) -> nn.Dense:
    return nn.Dense(
      features, kernel_init=self.kernel_init, dtype=self.dtype, name=name
    )

  def _position_bias(self) -> Float[Array, 'heads q k']:
    shape = ((2 * self.window - 1) ** 2, self.heads)
    table = self.param(
      'relative_position_bias_table', NORMAL, shape, jnp.float32
    )
    index = relative_position_index(self.window)
    return table[index].transpose(2, 0, 1)


def partition(
  x: Float[Array, 'n h w c'], window: int, shift: int
) -> Float[Array, 'n windows tokens c']:
  """Pads, shifts and cuts a map into windows.

  Args:
    x: [N, h, w, C].
    window: side of a window.
    shift: as in `WindowAttention`.

  Returns:
    [N, windows, window^2, C], windows and tokens row by row.
  """
  n, h, w, c = x.shape
  rows, columns = -(-h // window), -(-w // window)
  bottom, right = rows * window - h, columns * window - w
  x = jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0)))
  down, across = _shifts((h, w), window, shift)
  x = jnp.roll(x, (-down, -across), (1, 2))
  x = x.reshape(n, rows, window, columns, window, c).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(n, rows * columns, window * window, c)


def unpartition(
  x: Float[Array, 'n windows tokens c'],
  grid: tuple[int, int],
  window: int,
  shift: int,
) -> Float[Array, 'n h w c']:
  """Undoes `partition` for a map of size `grid` = (h, w)."""
  n, _, _, c = x.shape
  rows, columns = (-(-size // window) for size in grid)
  x = x.reshape(n, rows, columns, window, window, c).transpose(0, 1, 3, 2, 4, 5)
  x = x.reshape(n, rows * window, columns * window, c)
  x = jnp.roll(x, _shifts(grid, window, shift), (1, 2))
  return x[:, : grid[0], : grid[1]]


@functools.cache
def attention_mask(
  grid: tuple[int, int], window: int, shift: int
) -> Bool[np.ndarray, 'windows query key'] | None:
  """Which token of a window may attend to which.

  Shifted windows at the border join opposite ends of the map, which stay
  separate; padding is attended to by nobody but itself.

  Args:
    grid: (h, w) of the map.
    window: side of a window.
    shift: as in `WindowAttention`.

  Returns:
    True where allowed; None if everything is.
  """
  rows, columns = (
    _regions(size, window, by)
    for size, by in zip(grid, _shifts(grid, window, shift), strict=True)
  )
  padding = np.outer(rows, columns) == 0
  regions = np.where(padding, 0, 3 * rows[:, None] + columns[None])
  regions = regions.reshape(len(rows) // window, window, -1, window)
  regions = regions.transpose(0, 2, 1, 3).reshape(-1, window * window)
  mask = regions[:, :, None] == regions[:, None, :]
  return None if mask.all() else mask


def relative_position_index(window: int) -> Int[np.ndarray, 'query key']:
  """Row of the bias table for every pair of tokens of a window.

  Returns:
    [window^2, window^2]: (dy + window - 1) (2 window - 1) + dx + window - 1
    with (dy, dx) the position of the query less that of the key.
  """
  y, x = np.divmod(np.arange(window * window), window)
  dy, dx = y[:, None] - y[None], x[:, None] - x[None]
  return (dy + window - 1) * (2 * window - 1) + dx + window - 1


def _shifts(grid: tuple[int, int], window: int, shift: int) -> tuple[int, int]:
  down, across = (shift if size > window else 0 for size in grid)
  return down, across


def _regions(size: int, window: int, shift: int) -> Int[np.ndarray, ' padded']:
  """Along one shifted axis: 0 padding, 1 the body, 2 the end rolled round."""
  padded = -(-size // window) * window
  position = np.arange(padded)
  region = np.where(position < shift, 2, 1)
  return np.roll(np.where(position < size, region, 0), -shift)
