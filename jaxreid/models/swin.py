"""Swin Transformer (Liu et al., 2021, https://arxiv.org/abs/2103.14030).

Synopsis:

  stages = swin_stages('swin_tiny')
  variables = stages[0]('stage0').init(key, images, train=False)

Stage 0 cuts the image into patches, stages 1 to 4 are the paper's; a patch
merging belongs to the END of the stage that it ends, as in the published
weights, and the last LayerNorm to stage 4. Images of any size will do. Names
of the parameters, and the published ones:

  stage0/proj, norm                              patch_embed.proj, norm
  stage{s}/block{b}/norm1, norm2                 layers.{s - 1}.blocks.{b}
  stage{s}/block{b}/attention/qkv, proj            .attn.qkv, .attn.proj
  stage{s}/block{b}/attention/relative_position_bias_table      (same shape)
  stage{s}/block{b}/mlp/fc1, fc2                   .mlp.fc1, .mlp.fc2
  stage{s}/downsample/norm, reduction  (s < 4)   layers.{s - 1}.downsample
  stage4/norm                                    norm

There is no BatchNorm, so no batch statistics; pool by average, since the last
LayerNorm leaves negative values, which GeM would count as zero.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxreid.models.window_attention import NORMAL, WindowAttention

# What PyTorch starts a convolution from: U(-1, 1) / sqrt(fan_in).
_UNIFORM = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


class _Layout(NamedTuple):
  width: int
  depths: tuple[int, ...]
  heads: tuple[int, ...]
  window: int
  kernel_init: nn.initializers.Initializer = NORMAL


_LAYOUTS = {
  # Never one head: with it XLA takes about 2.5 times as long on CPU.
  # The published start, N(0, 0.02), leaves the branches of so narrow a network
  # near zero for hundreds of steps.
  'swin_mini': _Layout(
    32, (1, 1, 2, 1), (2, 4, 8, 16), 3, nn.initializers.lecun_normal()
  ),
  'swin_tiny': _Layout(96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
  'swin_small': _Layout(96, (2, 2, 18, 2), (3, 6, 12, 24), 7),
  'swin_base': _Layout(128, (2, 2, 18, 2), (4, 8, 16, 32), 7),
}
NAMES = tuple(_LAYOUTS)


class PatchEmbedding(nn.Module):
  """A linear map of every 4x4 patch, and LayerNorm.

  Attributes:
    width: channels of the output.
    dtype: of the computation and the output; parameters are float32.
  """

  width: int
  dtype: DTypeLike | None = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n H W 3'], train: bool
  ) -> Float[Array, 'n h w c']:
    """Maps images [N, H, W, 3] to [N, ceil(H/4), ceil(W/4), width]."""
    del train
    x = nn.Conv(
      self.width,
      (4, 4),
      strides=(4, 4),
      padding='VALID',
      kernel_init=_UNIFORM,
      dtype=self.dtype,
      name='proj',
    )(_pad_to_multiple(x, 4))
    return _layer_norm(self.dtype, 'norm')(x)


class Mlp(nn.Module):
  """Linear to 4 times the channels, exact GELU, linear back.

  Attributes:
    dtype: of the computation and the output; parameters are float32.
    kernel_init: what the linear maps start from.
  """

  dtype: DTypeLike | None = jnp.float32
  kernel_init: nn.initializers.Initializer = NORMAL

  @nn.compact
  def __call__(self, x: Float[Array, 'n h w c']) -> Float[Array, 'n h w c']:
    """Maps every position on its own."""
    c = x.shape[-1]
    y = self._dense(4 * c, 'fc1')(x)
    y = nn.gelu(y, approximate=False)
    return self._dense(c, 'fc2')(y)

  def _dense(self, features: int, name: str) -> nn.Dense:
    return nn.Dense(
      features, kernel_init=self.kernel_init, dtype=self.dtype, name=name
    )


class SwinBlock(nn.Module):
  """LayerNorm and window attention, LayerNorm and MLP, each residual.

  Attributes:
    heads: of the attention.
    window: side of a window.
    shift: of the windows.
    drop_path: probability that a training image skips a branch (stochastic
      depth, Huang et al., 2016); what is kept is scaled up. If it is not 0,
      training needs `rngs={'drop_path': key}`.
    dtype: of the computation and the output; parameters are float32.
    kernel_init: what the linear maps start from.
  """

  heads: int
  window: int
  shift: int
  drop_path: float = 0.0
  dtype: DTypeLike | None = jnp.float32
  kernel_init: nn.initializers.Initializer = NORMAL

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n h w c']:
    """Applies the block."""
    y = _layer_norm(self.dtype, 'norm1')(x)
    y = WindowAttention(
      self.heads,
      self.window,
      self.shift,
      self.dtype,
      self.kernel_init,
      name='attention',
    )(y)
    x = x + self._drop(y, train)
    y = _layer_norm(self.dtype, 'norm2')(x)
    y = Mlp(self.dtype, self.kernel_init, name='mlp')(y)
    return x + self._drop(y, train)

  def _drop(
    self, y: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n h w c']:
    if not train or self.drop_path == 0:
      return y
    keep = 1 - self.drop_path
    kept = jax.random.bernoulli(self.make_rng('drop_path'), keep, y.shape[:1])
    return y * (kept / keep).astype(y.dtype)[:, None, None, None]


class PatchMerging(nn.Module):
  """Every 2x2 positions become one with twice the channels.

  Attributes:
    dtype: of the computation and the output; parameters are float32.
    kernel_init: what the linear map starts from.
  """

  dtype: DTypeLike | None = jnp.float32
  kernel_init: nn.initializers.Initializer = NORMAL

  @nn.compact
  def __call__(self, x: Float[Array, 'n H W c']) -> Float[Array, 'n h w o']:
    """Maps [N, H, W, C] to [N, ceil(H/2), ceil(W/2), 2 C]."""
    c = x.shape[-1]
    x = _pad_to_multiple(x, 2)
    corners = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
    x = _layer_norm(self.dtype, 'norm')(jnp.concatenate(corners, axis=-1))
    return nn.Dense(
      2 * c,
      use_bias=False,
      kernel_init=self.kernel_init,
      dtype=self.dtype,
      name='reduction',
    )(x)


class SwinStage(nn.Module):
  """Blocks, every second one with shifted windows, and what ends them.

  Attributes:
    heads: of every attention.
    window: side of a window.
    drop_path: probability of every block, hence their number.
    last: end in a LayerNorm instead of a patch merging.
    dtype: of the computation and the output; parameters are float32.
    remat: whether to recompute each block in the backward pass instead of
      keeping its activations.
    kernel_init: what all linear maps start from.
  """

  heads: int
  window: int
  drop_path: tuple[float, ...]
  last: bool = False
  dtype: DTypeLike | None = jnp.float32
  remat: bool = False
  kernel_init: nn.initializers.Initializer = NORMAL

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n H W i'], train: bool
  ) -> Float[Array, 'n h w o']:
    """Maps [N, H, W, C] to the stage's feature map."""
    block = SwinBlock
    if self.remat:
      block = nn.remat(block, static_argnums=(2,))
    for i, drop_path in enumerate(self.drop_path):
      shift = self.window // 2 if i % 2 else 0
      x = block(
        self.heads,
        self.window,
        shift,
        drop_path,
        self.dtype,
        self.kernel_init,
        name=f'block{i}',
      )(x, train)
    if self.last:
      return _layer_norm(self.dtype, 'norm')(x)
    return PatchMerging(self.dtype, self.kernel_init, name='downsample')(x)


def swin_stages(
  name: str,
  *,
  drop_path: float = 0.0,
  dtype: DTypeLike | None = jnp.float32,
  remat: bool = False,
) -> tuple[Callable[[str], nn.Module], ...]:
  """The five stages of a Swin Transformer, as factories for `MultiStream`.

  Args:
    name: 'swin_tiny', 'swin_small', 'swin_base', or 'swin_mini': one
      block per stage, two in the third, width 32 and 3x3 windows, for small
      images on a CPU.
    drop_path: of the last block (see `SwinBlock`); that of the others grows
      up to it from 0.
    dtype: of the computation, e.g. `jnp.bfloat16`; parameters are float32.
    remat: recompute each block in the backward pass: less memory, about a
      third more time.

  Returns:
    Five functions from a flax module name to a module with
    `__call__(x [N, H, W, C], train) -> [N, h, w, C']`. With width w stages
    0 to 4 give w, 2w, 4w, 8w and 8w channels at 1/4, 1/8, 1/16, 1/32 and 1/32
    of the resolution, rounded up.

  Raises:
    ValueError: on an unknown name, listing the known ones.
  """
  if name not in _LAYOUTS:
    raise ValueError(f'Unknown Swin {name!r}; known are {", ".join(NAMES)}.')
  layout = _LAYOUTS[name]
  rates = np.linspace(0, drop_path, sum(layout.depths)).tolist()
  starts = np.cumsum((0, *layout.depths)).tolist()

  def embedding(name: str) -> nn.Module:
    return PatchEmbedding(layout.width, dtype, name=name)

  def stage(i: int) -> Callable[[str], nn.Module]:
    return lambda name: SwinStage(
      heads=layout.heads[i],
      window=layout.window,
      drop_path=tuple(rates[starts[i] : starts[i + 1]]),
      last=i == 3,
      dtype=dtype,
      remat=remat,
      kernel_init=layout.kernel_init,
      name=name,
    )

  return (embedding, *(stage(i) for i in range(4)))


def _layer_norm(dtype: DTypeLike | None, name: str) -> nn.LayerNorm:
  # Two passes for the variance, as in `BatchNorm`.
  return nn.LayerNorm(
    epsilon=1e-5, dtype=dtype, use_fast_variance=False, name=name
  )


def _pad_to_multiple(
  x: Float[Array, 'n h w c'], factor: int
) -> Float[Array, 'n H W c']:
  """Zeros at the bottom and on the right."""
  bottom, right = (-size % factor for size in x.shape[1:3])
  return jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0)))
