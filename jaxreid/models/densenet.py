"""DenseNet (Huang et al., 2017, https://arxiv.org/abs/1608.06993) in stages.

Synopsis:

  stages = densenet_stages('densenet121', last_stride=1)
  stem = stages[0]('stage0')
  x, updates = stem.apply(variables, images, True, mutable=['batch_stats'])

Stage 0 is the stem, stages 1 to 4 are the dense blocks, each with the
transition that ends it; the last ends in a BatchNorm and a ReLU. Padding and
initial weights are torchvision's. Names of the parameters, and torchvision's:

  stage0/conv, norm                         features.conv0, norm0
  stage{b}/layer{l}/norm1, conv1            features.denseblock{b}
  stage{b}/layer{l}/norm2, conv2              .denselayer{l + 1}.norm1, ...
  stage{b}/transition/norm, conv  (b < 4)   features.transition{b}.norm, conv
  stage4/norm                               features.norm5

`conv1` and the transition's `conv` are 1x1: their kernels are [inputs,
outputs] here.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxreid.models.batch_norm import BatchNorm
from jaxreid.models.resnet import Stem

_KAIMING = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')
# Channels that a layer adds, layers of the blocks.
_LAYOUTS = {'densenet121': (32, (6, 12, 24, 16))}
NAMES = tuple(_LAYOUTS)


class DenseLayer(nn.Module):
  """BatchNorm, ReLU, 1x1 and BatchNorm, ReLU, 3x3: new channels to append.

  Attributes:
    growth: channels of the output; the 1x1 convolution has 4 times as many.
    dtype: of the computation and the output; parameters are float32.
  """

  growth: int
  dtype: DTypeLike | None = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n h w i'], train: bool
  ) -> Float[Array, 'n h w growth']:
    """Maps [N, h, w, C] to [N, h, w, growth]."""
    y = nn.relu(BatchNorm(dtype=self.dtype, name='norm1')(x, train))
    y = _conv1x1(4 * self.growth, self.dtype, 'conv1')(y)
    y = nn.relu(BatchNorm(dtype=self.dtype, name='norm2')(y, train))
    return nn.Conv(
      self.growth,
      (3, 3),
      padding=((1, 1), (1, 1)),
      use_bias=False,
      kernel_init=_KAIMING,
      dtype=self.dtype,
      name='conv2',
    )(y)


class Transition(nn.Module):
  """BatchNorm, ReLU, 1x1 convolution and average-pooling over 2x2.

  Attributes:
    features: channels of the output.
    stride: of the pooling; 1 leaves it out.
    dtype: of the computation and the output; parameters are float32.
  """

  features: int
  stride: int = 2
  dtype: DTypeLike | None = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n H W i'], train: bool
  ) -> Float[Array, 'n h w o']:
    """Maps [N, H, W, C] to [N, H // stride, W // stride, features]."""
    x = nn.relu(BatchNorm(dtype=self.dtype, name='norm')(x, train))
    x = _conv1x1(self.features, self.dtype, 'conv')(x)
    size = (self.stride, self.stride)
    return nn.avg_pool(x, size, strides=size) if self.stride > 1 else x


class DenseStage(nn.Module):
  """A dense block and what follows it.

  Attributes:
    layers: their number.
    growth: channels that each adds.
    stride: of the transition at the end; None is for the last block, which
      has a BatchNorm and a ReLU instead.
    dtype: of the computation and the output; parameters are float32.
    remat: whether to recompute each layer in the backward pass instead of
      keeping its activations.
  """

  layers: int
  growth: int
  stride: int | None = 2
  dtype: DTypeLike | None = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n H W i'], train: bool
  ) -> Float[Array, 'n h w o']:
    """Maps [N, H, W, C] to the stage's feature map."""
    layer = DenseLayer
    if self.remat:
      layer = nn.remat(layer, static_argnums=(2,))
    parts = [x]
    for i in range(self.layers):
      new = layer(self.growth, self.dtype, name=f'layer{i}')(x, train)
      parts.append(new)
      # Of all parts, not of x and the new one: XLA compiles it faster.
      x = jnp.concatenate(parts, axis=-1)
    if self.stride is None:
      return nn.relu(BatchNorm(dtype=self.dtype, name='norm')(x, train))
    half = x.shape[-1] // 2
    return Transition(half, self.stride, self.dtype, name='transition')(
      x, train
    )


def densenet_stages(
  name: str,
  *,
  last_stride: int = 1,
  dtype: DTypeLike | None = jnp.float32,
  remat: bool = False,
) -> tuple[Callable[[str], nn.Module], ...]:
  """The five stages of a DenseNet, as factories for `MultiStream`.

  Args:
    name: 'densenet121'.
    last_stride: of the last transition, which ends stage 3: 1 leaves its
      pooling out, so that stage 4 has twice the resolution; 2 is the ImageNet
      classifier.
    dtype: of the computation, e.g. `jnp.bfloat16`; parameters are float32.
    remat: recompute each layer in the backward pass: less memory, about a
      third more time.

  Returns:
    Five functions from a flax module name to a module with
    `__call__(x [N, H, W, C], train) -> [N, h, w, C']`; densenet121 gives 64,
    128, 256, 512 and 1024 channels.

  Raises:
    ValueError: on an unknown name, listing the known ones.
  """
  if name not in _LAYOUTS:
    raise ValueError(
      f'Unknown DenseNet {name!r}; known are {", ".join(NAMES)}.'
    )
  growth, depths = _LAYOUTS[name]
  strides = (2, 2, last_stride, None)

  def stem(name: str) -> nn.Module:
    return Stem(2 * growth, dtype=dtype, kernel_init=_KAIMING, name=name)

  def stage(i: int) -> Callable[[str], nn.Module]:
    return lambda name: DenseStage(
      depths[i], growth, strides[i], dtype, remat, name=name
    )

  return (stem, *(stage(i) for i in range(4)))


def _conv1x1(features: int, dtype: DTypeLike | None, name: str) -> nn.Dense:
  # A matrix product, as in `resnet`.
  return nn.Dense(
    features, use_bias=False, kernel_init=_KAIMING, dtype=dtype, name=name
  )
