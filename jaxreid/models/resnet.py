"""ResNet (He et al., 2016, https://arxiv.org/abs/1512.03385) as five stages.

Synopsis:

  stages = resnet_stages('resnet50', last_stride=1)
  stem = stages[0]('stage0')
  x, updates = stem.apply(variables, images, True, mutable=['batch_stats'])

Stage 0 is the stem, stages 1 to 4 are the residual stages ('layer1' to
'layer4' in torchvision). Padding, the place of the stride (on the 3x3
convolution of a bottleneck) and the initial weights are torchvision's.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxreid.models.batch_norm import BatchNorm
from jaxreid.models.nonlocal_block import NonLocalBlock

_KAIMING = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class Stem(nn.Module):
  """7x7 convolution, BatchNorm, ReLU and max-pooling: stride 4 in all.

  Attributes:
    width: output channels.
    relu: whether to keep the ReLU. Weights released with BoT, XIV and LUPI
      were trained without.
    dtype: of the computation and the output; parameters are float32.
    kernel_init: initializer of the convolution.
  """

  width: int = 64
  relu: bool = True
  dtype: DTypeLike | None = jnp.float32
  kernel_init: nn.initializers.Initializer = _KAIMING

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n H W 3'], train: bool
  ) -> Float[Array, 'n h w c']:
    """Maps normalised images [N, H, W, 3] to [N, ~H/4, ~W/4, width]."""
    x = nn.Conv(
      self.width,
      (7, 7),
      strides=(2, 2),
      padding=((3, 3), (3, 3)),
      use_bias=False,
      kernel_init=self.kernel_init,
      dtype=self.dtype,
      name='conv',
    )(x)
    x = BatchNorm(dtype=self.dtype, name='norm')(x, train)
    if self.relu:
      x = nn.relu(x)
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


class BasicBlock(nn.Module):
  """Two 3x3 convolutions beside a shortcut (ResNet-18 and 34).

  Attributes:
    width: output channels.
    stride: of the first convolution and of the shortcut.
    dtype: of the computation and the output; parameters are float32.
  """

  width: int
  stride: int = 1
  dtype: DTypeLike | None = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n H W i'], train: bool
  ) -> Float[Array, 'n h w o']:
    """Maps [N, H, W, C] to [N, H / stride, W / stride, width]."""
    y = _conv3x3(self.width, self.stride, self.dtype, 'conv1')(x)
    y = nn.relu(BatchNorm(dtype=self.dtype, name='norm1')(y, train))
    y = _conv3x3(self.width, 1, self.dtype, 'conv2')(y)
    y = BatchNorm(dtype=self.dtype, name='norm2')(y, train)
    if self.stride != 1 or x.shape[-1] != self.width:
      x = _strided(x, self.stride)
      x = _conv1x1(self.width, self.dtype, 'shortcut')(x)
      x = BatchNorm(dtype=self.dtype, name='shortcut_norm')(x, train)
    return nn.relu(x + y)


class Bottleneck(nn.Module):
  """1x1, 3x3 and 1x1 convolution beside a shortcut (ResNet-50 and deeper).

  Attributes:
    width: channels of the 3x3 convolution; the output has 4 times as many.
    stride: of the 3x3 convolution and of the shortcut.
    dtype: of the computation and the output; parameters are float32.
  """

  width: int
  stride: int = 1
  dtype: DTypeLike | None = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n H W i'], train: bool
  ) -> Float[Array, 'n h w o']:
    """Maps [N, H, W, C] to [N, H / stride, W / stride, 4 * width]."""
    y = _conv1x1(self.width, self.dtype, 'conv1')(x)
    y = nn.relu(BatchNorm(dtype=self.dtype, name='norm1')(y, train))
    y = _conv3x3(self.width, self.stride, self.dtype, 'conv2')(y)
    y = nn.relu(BatchNorm(dtype=self.dtype, name='norm2')(y, train))
    y = _conv1x1(4 * self.width, self.dtype, 'conv3')(y)
    y = BatchNorm(dtype=self.dtype, name='norm3')(y, train)
    if self.stride != 1 or x.shape[-1] != 4 * self.width:
      x = _strided(x, self.stride)
      x = _conv1x1(4 * self.width, self.dtype, 'shortcut')(x)
      x = BatchNorm(dtype=self.dtype, name='shortcut_norm')(x, train)
    return nn.relu(x + y)


class ResidualStage(nn.Module):
  """Blocks of one width, the last of them followed by non-local blocks.

  Attributes:
    block: `BasicBlock` or `Bottleneck`.
    width: of the blocks.
    blocks: their number.
    stride: of the first.
    nonlocal_blocks: how many of the last blocks a non-local one follows.
    nonlocal_width: 'released' or 'intended', see `resnet_stages`.
    dtype: of the computation and the output; parameters are float32.
    remat: whether to recompute each block in the backward pass instead of
      keeping its activations.
  """

  block: Callable[..., nn.Module]
  width: int
  blocks: int
  stride: int
  nonlocal_blocks: int = 0
  nonlocal_width: str = 'released'
  dtype: DTypeLike | None = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n H W i'], train: bool
  ) -> Float[Array, 'n h w o']:
    """Maps [N, H, W, C] to the stage's feature map."""
    block = self.block
    if self.remat:
      block = nn.remat(block, static_argnums=(2,))
    plain = max(self.blocks - self.nonlocal_blocks, 0)
    for i in range(self.blocks):
      stride = self.stride if i == 0 else 1
      x = block(self.width, stride, self.dtype, name=f'block{i}')(x, train)
      if i >= plain:
        width = 1 if self.nonlocal_width == 'released' else x.shape[-1] // 2
        x = NonLocalBlock(width, self.dtype, name=f'nonlocal{i - plain}')(
          x, train
        )
    return x


_LAYOUTS: dict[str, tuple[Callable[..., nn.Module], int, tuple[int, ...]]] = {
  'resnet_small': (BasicBlock, 32, (1, 1, 1, 1)),
  'resnet18': (BasicBlock, 64, (2, 2, 2, 2)),
  'resnet34': (BasicBlock, 64, (3, 4, 6, 3)),
  'resnet50': (Bottleneck, 64, (3, 4, 6, 3)),
  'resnet101': (Bottleneck, 64, (3, 4, 23, 3)),
}
NAMES = tuple(_LAYOUTS)
NONLOCAL_WIDTHS = ('released', 'intended')


def resnet_stages(
  name: str,
  *,
  last_stride: int = 1,
  stem_relu: bool = True,
  nonlocal_blocks: bool = False,
  nonlocal_width: str = 'released',
  dtype: DTypeLike | None = jnp.float32,
  remat: bool = False,
) -> tuple[Callable[[str], nn.Module], ...]:
  """The five stages of a ResNet, as factories for `MultiStream`.

  Args:
    name: 'resnet18', 'resnet34', 'resnet50', 'resnet101', or 'resnet_small':
      one basic block per stage and half the width, for small images on a CPU.
    last_stride: of the last stage: 1 keeps twice the resolution, as usual in
      re-identification; 2 is the ImageNet classifier.
    stem_relu: see `Stem`.
    nonlocal_blocks: add AGW's non-local blocks after the last 2 blocks of
      stage 2 and the last 3 of stage 3 (or after all, where there are fewer).
    nonlocal_width: their inner channels: 'released' is 1, as in the published
      weights; 'intended' is half the channels of the map.
    dtype: of the computation, e.g. `jnp.bfloat16`; parameters are float32.
    remat: recompute each block in the backward pass: less memory, about a
      third more time.

  Returns:
    Five functions from a flax module name to a module with
    `__call__(x [N, H, W, C], train) -> [N, h, w, C']`.

  Raises:
    ValueError: on an unknown name or width, listing the known ones.
  """
  if name not in _LAYOUTS:
    raise ValueError(
      f'Unknown backbone {name!r}; known are {", ".join(NAMES)}.'
    )
  if nonlocal_width not in NONLOCAL_WIDTHS:
    raise ValueError(
      f'backbone.nonlocal_width must be one of {NONLOCAL_WIDTHS}, not '
      f'{nonlocal_width!r}'
    )
  block, width, depths = _LAYOUTS[name]
  strides = (1, 2, 2, last_stride)
  nonlocals = (0, 2, 3, 0) if nonlocal_blocks else (0, 0, 0, 0)

  def stem(name: str) -> nn.Module:
    return Stem(width, stem_relu, dtype, name=name)

  def stage(i: int) -> Callable[[str], nn.Module]:
    return lambda name: ResidualStage(
      block=block,
      width=width * 2**i,
      blocks=depths[i],
      stride=strides[i],
      nonlocal_blocks=nonlocals[i],
      nonlocal_width=nonlocal_width,
      dtype=dtype,
      remat=remat,
      name=name,
    )

  return (stem, *(stage(i) for i in range(4)))


def _conv3x3(
  features: int, stride: int, dtype: DTypeLike | None, name: str
) -> nn.Conv:
  return nn.Conv(
    features,
    (3, 3),
    strides=(stride, stride),
    # 'SAME' would pad a stride of 2 on one side only, unlike PyTorch.
    padding=((1, 1), (1, 1)),
    use_bias=False,
    kernel_init=_KAIMING,
    dtype=dtype,
    name=name,
  )


def _conv1x1(features: int, dtype: DTypeLike | None, name: str) -> nn.Dense:
  # A matrix product: XLA's weight gradient of a 1x1 convolution is several
  # times slower on CPU.
  return nn.Dense(
    features, use_bias=False, kernel_init=_KAIMING, dtype=dtype, name=name
  )


def _strided(
  x: Float[Array, 'n H W c'], stride: int
) -> Float[Array, 'n h w c']:
  return x[:, ::stride, ::stride] if stride > 1 else x
