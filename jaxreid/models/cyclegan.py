"""Generators and discriminators of images, after CycleGAN.

Synopsis:

  generator = Generator(width=64, blocks=9)
  fake = generator.apply({'params': params}, images)        # in -1..1
  judge = Discriminator(joint=True)
  logits = judge.apply({'params': params}, images, feature_maps)

Zhu et al., "Unpaired Image-to-Image Translation using Cycle-Consistent
Adversarial Networks", 2017, https://arxiv.org/abs/1703.10593. Images of any
size are taken, on the scale -1..1. Nothing here depends on other images of a
batch: normalisation is within an image.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

_INIT = nn.initializers.normal(0.02)


def _equal_phases(
  key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> Array:
  """Weights that make one pixel four times over, so that no grid appears.

  Aitken et al., "Checkerboard artifact free sub-pixel convolution", 2017,
  https://arxiv.org/abs/1707.02937.
  """
  one = _INIT(key, (*shape[:-1], shape[-1] // 4), dtype)
  return jnp.tile(one, 4)


class Generator(nn.Module):
  """An image in, an image of the same size out, both on the scale -1..1.

  Reflection padding and a 7x7 convolution, two downsamplings, residual blocks,
  two upsamplings, a 7x7 convolution and tanh.

  Attributes:
    width: channels at full resolution; twice as many after each downsampling.
    blocks: residual blocks; 9 in CycleGAN, 6 for images up to 128 x 128.
    downsamplings: and as many upsamplings; 2 in CycleGAN. Small images keep
      more of their detail with 1.
    kernel: size of the first and the last convolution, an odd number; on a
      CPU a 7x7 convolution of a whole image takes longer than all else.
  """

  width: int = 64
  blocks: int = 9
  downsamplings: int = 2
  kernel: int = 7

  @nn.compact
  def __call__(
    self, images: Float[Array, 'n h w 3']
  ) -> Float[Array, 'n h w 3']:
    """Maps [N, H, W, 3] to [N, H, W, 3]."""
    height, width = images.shape[1:3]
    # As many halvings as doublings give multiples of this back.
    multiple = 2**self.downsamplings
    x = _reflect(images, (0, -height % multiple), (0, -width % multiple))
    border = (self.kernel // 2, self.kernel // 2)
    x = _conv(self.width, self.kernel, name='in')(_reflect(x, border))
    x = _norm_relu(x)
    for i in range(1, self.downsamplings + 1):
      down = _conv(self.width * 2**i, 3, 2, name=f'down{i}')
      x = _norm_relu(down(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))))
    for i in range(self.blocks):
      y = _conv(x.shape[-1], 3, name=f'block{i}_conv1')(_reflect(x, (1, 1)))
      y = _reflect(_norm_relu(y), (1, 1))
      x += _normalize(_conv(x.shape[-1], 3, name=f'block{i}_conv2')(y))
    for i in reversed(range(self.downsamplings)):
      x = _norm_relu(_upsample(x, self.width * 2**i, f'up{i}'))
    x = _conv(3, self.kernel, name='out')(_reflect(x, border))
    return jnp.tanh(x)[:, :height, :width]


class Discriminator(nn.Module):
  """Whether patches of an image are real: PatchGAN, alone or joint.

  Three 4x4 convolutions of stride 2, one of stride 1 and one to a logit. A
  joint one is given a feature map of the image, too: a 1x1 convolution of it,
  resized, joins the image's features before the last two.

  Attributes:
    width: channels of the first convolution; twice as many in each after.
    joint: whether it takes feature maps.
  """

  width: int = 64
  joint: bool = False

  def setup(self) -> None:
    """Makes the layers that `look` and `judge` share out."""
    self.layers = [_conv(self.width * 2**i, 4, 2, 'SAME') for i in range(3)]
    if self.joint:
      self.map_layer = nn.Dense(self.width, kernel_init=_INIT)
    self.layer3 = _conv(self.width * 8, 4, 1, 'SAME')
    self.out = _conv(1, 4, 1, 'SAME')

  def __call__(
    self,
    images: Float[Array, 'n H W 3'],
    feature_maps: Float[Array, 'n h w c'] | None = None,
  ) -> Float[Array, 'n p q 1']:
    """Logits of the patches of [N, H, W, 3] images, high where real.

    Args:
      images: on the scale -1..1.
      feature_maps: [N, h, w, C], for a joint one alone.

    Raises:
      ValueError: if feature maps are given to one that is not joint, or not
        given to one that is.
    """
    return self.judge(self.look(images), feature_maps)

  def look(self, images: Float[Array, 'n H W 3']) -> Float[Array, 'n p q d']:
    """The part that sees the image alone; once for all pairs it is in."""
    x = images
    for i, layer in enumerate(self.layers):
      x = layer(x)
      x = nn.leaky_relu(_normalize(x) if i else x, 0.2)
    return x

  def judge(
    self,
    looks: Float[Array, 'n p q d'],
    feature_maps: Float[Array, 'n h w c'] | None = None,
  ) -> Float[Array, 'n p q 1']:
    """Logits from what `look` gave and, of a joint one, feature maps."""
    if (feature_maps is not None) != self.joint:
      raise ValueError(
        'A joint discriminator takes feature maps, and no other does.'
      )
    x = looks
    if feature_maps is not None:
      y = nn.leaky_relu(self.map_layer(feature_maps), 0.2)
      shape = (*x.shape[:3], y.shape[-1])
      x = jnp.concatenate([x, jax.image.resize(y, shape, 'bilinear')], -1)
    x = nn.leaky_relu(_normalize(self.layer3(x)), 0.2)
    return self.out(x)


def _conv(
  features: int,
  size: int,
  stride: int = 1,
  padding: str = 'VALID',
  init: nn.initializers.Initializer = _INIT,
  name: str | None = None,
) -> nn.Conv:
  return nn.Conv(
    features,
    (size, size),
    (stride, stride),
    padding,
    kernel_init=init,
    name=name,
  )


def _upsample(
  x: Float[Array, 'n h w c'], features: int, name: str
) -> Float[Array, 'n H W d']:
  """Twice the height and width: a 2x2 convolution to four pixels for each.

  In the place of CycleGAN's transposed convolution, whose weight gradient is
  several times slower on CPU.
  """
  count, height, width, _ = x.shape
  # Its padding to the edge would have XLA move rows between devices.
  x = jnp.concatenate([x, x[:, -1:]], 1)
  x = jnp.concatenate([x, x[:, :, -1:]], 2)
  y = _conv(4 * features, 2, init=_equal_phases, name=name)(x)
  y = y.reshape(count, height, width, 2, 2, features).swapaxes(2, 3)
  return y.reshape(count, 2 * height, 2 * width, features)


def _reflect(
  x: Float[Array, 'n h w c'],
  rows: tuple[int, int],
  columns: tuple[int, int] | None = None,
) -> Float[Array, 'n H W c']:
  sides = ((0, 0), rows, rows if columns is None else columns, (0, 0))
  return jnp.pad(x, sides, 'reflect')


def _norm_relu(x: Float[Array, 'n h w c']) -> Float[Array, 'n h w c']:
  return nn.relu(_normalize(x))


def _normalize(x: Float[Array, 'n h w c']) -> Float[Array, 'n h w c']:
  """Instance normalisation, without parameters as in CycleGAN."""
  mean = x.mean((1, 2), keepdims=True)
  variance = jnp.square(x - mean).mean((1, 2), keepdims=True)
  return (x - mean) * jax.lax.rsqrt(variance + 1e-5)
