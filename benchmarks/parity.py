"""How far jaxreid's networks are from the same ones in PyTorch.

  python -m benchmarks.parity

prints two tables as Markdown and needs PyTorch (the CPU version is enough).
Both get the same random weights, BatchNorm's statistics included, and the same
two images per modality; PyTorch runs `tests/models/torch_reference.py`.

An error is the largest absolute difference of a tensor over its largest
absolute value; of several tensors, the worst one's. Gradients are compared in
double precision: in single a ReLU or a maximum falls to the other side here
and there, which moves gradients by more than rounding. How much is in the last
column, PyTorch in single against PyTorch in double precision.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxreid.models import (
  EmbeddingNetwork,
  Head,
  MultiStream,
  backbone_stages,
  count_parameters,
)
from jaxreid.models.pretrained import convert, fill_network
from tests.models import torch_reference

SIZES = ((224, 224), (288, 144), (256, 128))
STREAMS = ('visible', 'infrared')
CLASSES = 17


class Case(NamedTuple):
  """A network and the size of its images.

  Attributes:
    name: of a backbone, or 'agw' or 'agw intended': the whole network with
      non-local blocks as released and as intended.
    size: (height, width).
    last_stride: of the last stage.
    tiled: compare a Swin with the published form of its attention, which
      needs maps that windows tile.
  """

  name: str
  size: tuple[int, int]
  last_stride: int = 1
  tiled: bool = False

  def __str__(self) -> str:
    return f'{self.name} {"x".join(map(str, self.size))}'


PAPER_SIZES = (
  *(Case('resnet50', size) for size in SIZES),
  Case('resnet50', SIZES[0], last_stride=2),
  *(Case('densenet121', size) for size in SIZES),
  Case('densenet121', SIZES[0], last_stride=2),
  Case('swin_tiny', SIZES[0], last_stride=2, tiled=True),
  *(Case('swin_tiny', size, last_stride=2) for size in SIZES[1:]),
  *(Case('agw', size) for size in SIZES),
  *(Case('agw intended', size) for size in SIZES),
)
SMALL_SIZES = (
  Case('resnet50', (64, 32)),
  Case('resnet50', (70, 41), last_stride=2),
  Case('densenet121', (64, 32)),
  Case('swin_tiny', (64, 33), last_stride=2),
  Case('agw', (64, 32)),
  Case('agw intended', (64, 32)),
)


class Pair(NamedTuple):
  """The same network twice, and images for it.

  Attributes:
    reference: PyTorch's.
    images: stream -> [2, H, W, 3].
    features: (reference, images) -> tensors to compare.
    variables: ours, with PyTorch's values.
    apply: (variables, images, train) -> (arrays to compare, updated).
    to_variables: a state dictionary of `reference` -> variables.
  """

  reference: torch.nn.Module
  images: dict[str, np.ndarray]
  features: Callable[..., list[torch.Tensor]]
  variables: Any
  apply: Callable[..., tuple[list[jax.Array], Any]]
  to_variables: Callable[[dict[str, torch.Tensor]], Any]


def make_pair(case: Case, seed: int = 0, dtype: str = 'float32') -> Pair:
  """Both networks with the same random values; they compute in `dtype`."""
  rng = np.random.default_rng(seed)
  images = {
    stream: rng.normal(size=(2, *case.size, 3)).astype('float32')
    for stream in STREAMS
  }
  build = _agw if case.name.startswith('agw') else _backbone
  reference, features, apply, to_variables = build(case, dtype)
  torch_reference.randomise(reference, lambda: features(images), seed)
  variables = to_variables(reference.state_dict())
  images = {stream: x.astype(dtype) for stream, x in images.items()}
  reference.to(getattr(torch, dtype))
  return Pair(reference, images, features, variables, apply, to_variables)


def eval_error(pair: Pair) -> float:
  """Of the features with running statistics."""
  pair.reference.eval()
  with torch.no_grad():
    expected = pair.features(pair.images)
  apply = jax.jit(pair.apply, static_argnums=2)
  ours, _ = apply(pair.variables, pair.images, False)
  return relative_error(ours, [x.numpy() for x in expected])


def forward_errors(pair: Pair) -> tuple[float, float]:
  """Of the features in training, and of the running statistics after it."""
  pair.reference.train()
  with torch.no_grad():
    expected = pair.features(pair.images)
  state = pair.to_variables(pair.reference.state_dict())
  apply = jax.jit(pair.apply, static_argnums=2)
  ours, updated = apply(pair.variables, pair.images, True)
  return (
    relative_error(ours, [x.numpy() for x in expected]),
    relative_error(
      updated.get('batch_stats', {}), state.get('batch_stats', {})
    ),
  )


def train_errors(pair: Pair) -> tuple[float, float, float]:
  """Of the features, the running statistics and the gradients of one loss."""
  expected, weights, expected_gradient = _torch_step(pair)

  def loss(params, images):
    outputs, updated = pair.apply(
      {**pair.variables, 'params': params}, images, True
    )
    return sum(map(jnp.vdot, weights, outputs)), (outputs, updated)

  # Compiling it well would take longer than it takes to run.
  differentiate = jax.jit(
    jax.value_and_grad(loss, has_aux=True),
    compiler_options={'xla_backend_optimization_level': 0},
  )
  (_, (ours, updated)), gradient = differentiate(
    pair.variables['params'], pair.images
  )
  state = pair.to_variables(pair.reference.state_dict())
  return (
    relative_error(ours, expected),
    relative_error(
      updated.get('batch_stats', {}), state.get('batch_stats', {})
    ),
    gradient_error(gradient, expected_gradient),
  )


def rounding_error(single: Pair, double: Pair) -> float:
  """Of PyTorch's gradients in single precision, by those in double."""
  *_, gradient = _torch_step(single)
  *_, expected = _torch_step(double)
  return gradient_error(gradient, expected)


def _torch_step(pair: Pair) -> tuple[list[np.ndarray], list[np.ndarray], Any]:
  """Trains PyTorch's network on one batch, without moving its parameters.

  Returns:
    Its features, their random weights in the loss, and the gradients under
    our names.
  """
  pair.reference.train().zero_grad()
  features = pair.features(pair.images)
  rng = np.random.default_rng(1)
  weights = [rng.normal(size=x.shape).astype('float32') for x in features]
  sum(
    (torch.from_numpy(w) * x).sum()
    for w, x in zip(weights, features, strict=True)
  ).backward()
  gradient = pair.to_variables(_gradient(pair.reference))['params']
  return [x.detach().numpy() for x in features], weights, gradient


def gradient_error(ours: Any, expected: Any) -> float:
  """As `relative_error`, against no less than 1/1000 of the largest gradient.

  That of a bias in front of a BatchNorm is nothing but rounding.
  """
  largest = max(float(abs(g).max()) for g in jax.tree.leaves(expected))
  return relative_error(ours, expected, largest / 1000)


def relative_error(ours: Any, expected: Any, floor: float = 0.0) -> float:
  """The largest of two trees' leaves.

  A leaf's is the largest absolute difference over the largest absolute value
  expected, but no less than `floor`.
  """
  errors = jax.tree.map(
    lambda a, b: float(abs(a - b).max() / max(abs(b).max(), floor)),
    ours,
    expected,
  )
  return max(jax.tree.leaves(errors), default=0.0)


def _backbone(case: Case, dtype: str) -> tuple:
  """Both streams through one backbone; its last feature map is compared."""
  attention = (
    torch_reference.TiledAttention if case.tiled else torch_reference.Attention
  )
  makers = {
    'resnet50': lambda: torch_reference.ResNet50(case.last_stride),
    'densenet121': lambda: torch_reference.DenseNet121(case.last_stride),
    'swin_tiny': lambda: torch_reference.Swin(attention=attention),
  }
  reference = makers[case.name]()
  stages = backbone_stages(
    case.name, last_stride=case.last_stride, dtype=jnp.dtype(dtype)
  )
  network = MultiStream(stages, 0, STREAMS)

  def features(images):
    folded = torch.stack([_nchw(images[s]) for s in STREAMS], 1).flatten(0, 1)
    return [reference.feature_map(folded).movedim(1, -1)]

  def apply(variables, images, train):
    outputs, updated = network.apply(
      variables, images, train, mutable=['batch_stats']
    )
    return outputs[-1:], updated

  def to_variables(state):
    return convert(_arrays(state), case.name)

  return reference, features, apply, to_variables


def _agw(case: Case, dtype: str) -> tuple:
  """The whole network: features before and after the BNNeck, and logits."""
  intended = case.name == 'agw intended'
  reference = torch_reference.AGW(CLASSES, lambda c: c // 2 if intended else 1)
  options = {
    'last_stride': case.last_stride,
    'nonlocal_blocks': True,
    'nonlocal_width': 'intended' if intended else 'released',
  }
  stages = backbone_stages('resnet50', **options, dtype=jnp.dtype(dtype))
  network = EmbeddingNetwork(MultiStream(stages, 1, STREAMS), Head(CLASSES))
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  shapes = jax.eval_shape(
    lambda key, images: network.init(key, images, train=False),
    jax.random.key(0),
    {stream: image for stream in STREAMS},
  )

  def features(images):
    outputs = reference(*(_nchw(images[s]) for s in STREAMS))
    return [half for x in outputs for half in x.chunk(2)]

  def apply(variables, images, train):
    output, updated = network.apply(
      variables, images, train, mutable=['batch_stats']
    )
    parts = (output.pooled, output.neck, output.logits)
    return [part[s] for part in parts for s in STREAMS], updated

  def to_variables(state):
    backbone = {'name': 'resnet50', 'stem_relu': True, **options}
    return fill_network(shapes, _arrays(state), backbone)

  return reference, features, apply, to_variables


def _gradient(module: torch.nn.Module) -> dict[str, torch.Tensor]:
  """The state dictionary with gradients instead of parameters."""
  found = {n: torch.zeros_like(x) for n, x in module.state_dict().items()}
  for name, parameter in module.named_parameters():
    if parameter.grad is not None:
      found[name] = parameter.grad
  return found


def _nchw(images: np.ndarray) -> torch.Tensor:
  return torch.from_numpy(images).movedim(-1, 1).contiguous()


def _arrays(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
  # Copies: PyTorch goes on writing into its own.
  return {name: x.detach().numpy().copy() for name, x in state.items()}


def _forward_row(case: Case) -> str:
  pair = make_pair(case)
  errors = (eval_error(pair), *forward_errors(pair))
  parameters = count_parameters(pair.variables['params'])
  return _line(case, f'{parameters:,}', *map(_short, errors))


def _backward_row(case: Case) -> str:
  with jax.enable_x64(True):
    double = make_pair(case, dtype='float64')
    errors = train_errors(double)
  single = make_pair(case)
  in_single = train_errors(single)[-1]
  itself = rounding_error(single, double)
  return _line(case, *map(_short, (*errors, in_single, itself)))


def _line(case: Case, *cells: str) -> str:
  name = case.name + (', published form' if case.tiled else '')
  size = 'x'.join(map(str, case.size))
  return '| ' + ' | '.join((name, size, str(case.last_stride), *cells)) + ' |'


def _short(error: float) -> str:
  return f'{error:.0e}' if error else '-'


def _print_table(
  titles: tuple[str, ...], row: Callable[[Case], str], cases: tuple[Case, ...]
):
  """Prints a row as soon as it is measured."""
  titles = ('network', 'input', 'last stride', *titles)
  print('| ' + ' | '.join(titles) + ' |')
  print('| --- | --- |' + ' ---: |' * (len(titles) - 2), flush=True)
  for case in cases:
    print(row(case), flush=True)


def main():
  """Prints both tables."""
  _print_table(
    ('parameters', 'eval', 'train', 'running statistics'),
    _forward_row,
    PAPER_SIZES,
  )
  print()
  _print_table(
    (
      'train, double',
      'running statistics, double',
      'gradient, double',
      'gradient, single',
      'gradient, PyTorch itself',
    ),
    _backward_row,
    SMALL_SIZES,
  )


if __name__ == '__main__':
  main()
