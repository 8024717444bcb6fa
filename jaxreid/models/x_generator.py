"""XIV's generator g of the X modality: two 1x1 convolutions and a ReLU.

Synopsis:

  generator = XGenerator()
  x = generator.apply({'params': params}, visible)      # Eq. 1
  print(formula(params))
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float


class XGenerator(nn.Module):
  """X = g(V) of Li et al., AAAI 2020, Eq. 1; 10 parameters.

  A pixel's three channels become one, the ReLU cuts it at zero, and the
  second convolution makes three channels of it. Weights start at 1/3 and
  biases at 0, as in the authors' code, so that X starts gray: where the
  normalised channels sum to less than 0 it is 0, ImageNet's mean colour.

  Attributes:
    bias: where the bias before the ReLU starts. From 2 on the ReLU cuts off
      no pixel at first, and X starts as the whole gray image.
  """

  bias: float = 0.0

  @nn.compact
  def __call__(
    self, images: Float[Array, 'n h w 3']
  ) -> Float[Array, 'n h w 3']:
    """Maps normalised visible images to normalised X images, pixel by pixel."""
    one = nn.relu(_conv1x1(1, self.bias, 'one')(images))
    return _conv1x1(3, 0.0, 'three')(one)


def _conv1x1(features: int, bias: float, name: str) -> nn.Dense:
  # Ten numbers decide how every image looks: no short formats here.
  return nn.Dense(
    features,
    kernel_init=nn.initializers.constant(1 / 3),
    bias_init=nn.initializers.constant(bias),
    precision=jax.lax.Precision.HIGHEST,
    name=name,
  )


def formula(
  params: Mapping[str, Any], mean: Sequence[float], std: Sequence[float]
) -> str:
  """What X is, in colours: 'X = relu(0.33 R + ...) x (...) + (...)'.

  Args:
    params: of an `XGenerator`.
    mean: of the normalisation of its images, per channel of 0..1.
    std: likewise.

  Returns:
    The map from R, G, B in 0..1 to the three channels of X in 0..1, with the
    weights of R, G and B scaled to magnitudes that sum to 1.
  """
  offset, scale = np.asarray(mean, np.float64), np.asarray(std, np.float64)
  one, three = (
    {name: np.asarray(leaf, np.float64) for name, leaf in params[part].items()}
    for part in ('one', 'three')
  )
  weights = one['kernel'][:, 0] / scale
  bias = float(one['bias'][0] - weights @ offset)
  size = max(float(np.abs(weights).sum()), 1e-12)
  factors = size * three['kernel'][0] * scale
  offsets = three['bias'] * scale + offset
  terms = ' '.join(
    f'{_signed(w / size)} {channel}'
    for w, channel in zip(weights, 'RGB', strict=True)
  )
  return (
    f'X = relu({terms.removeprefix("+ ")} {_signed(bias / size)}) x '
    f'{_triple(factors)} + {_triple(offsets)}'
  )


def _signed(value: float) -> str:
  return f'{"-" if value < 0 else "+"} {abs(value):.2f}'


def _triple(values: np.ndarray) -> str:
  return '(' + ', '.join(f'{value:.2f}' for value in values) + ')'
