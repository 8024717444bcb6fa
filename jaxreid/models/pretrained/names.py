"""What tensors are called in published files, and what shape they have there.

Synopsis:

  path = ('stage1', 'block0', 'conv1', 'kernel')
  torch_name('resnet50', path)  # 'layer1.0.conv1.weight'
  torch_shape('resnet50', path, (64, 64))  # (64, 64, 1, 1): a convolution

The names are those of torchvision for ResNets and DenseNets, of the Swin
authors for Swins; `standard_names` brings the other known layouts into these.
"""

import re
from collections.abc import Mapping

import numpy as np

CLASSIFIERS = {
  'resnet': ('fc',),
  'densenet': ('classifier',),
  'swin': ('head',),
}
_LEAF = {
  'kernel': 'weight',
  'scale': 'weight',
  'mean': 'running_mean',
  'var': 'running_var',
}
# Counters and tables that follow from the architecture.
_DERIVED = ('num_batches_tracked', 'relative_position_index', 'attn_mask')
_OLD_DENSENET = re.compile(r'(denselayer\d+\.(?:norm|conv))\.([12]\.)')
_MERGING = re.compile(r'layers\.(\d+)\.(downsample\..+)')


def family_of(architecture: str) -> str:
  """'resnet', 'densenet' or 'swin'; raises ValueError on anything else."""
  for family in CLASSIFIERS:
    if architecture.startswith(family):
      return family
  raise ValueError(f'There are no published weights of {architecture!r}.')


def standard_names(
  state_dict: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
  """Tensors under standard names, without those that hold nothing learned.

  Knows the dots in the layers of torchvision's DenseNet file ('norm.1' for
  'norm1') and the Swins of timm since 0.9, in which a patch merging begins a
  stage instead of ending the one before, and the classifier is 'head.fc'.

  Args:
    state_dict: name -> array in any known layout.

  Returns:
    New dictionary; batch counters, position indices and attention masks are
    left out.

  Raises:
    ValueError: if two tensors end up with one name.
  """
  merging_begins = any(n.startswith('layers.3.downsample.') for n in state_dict)
  standard: dict[str, np.ndarray] = {}
  for name, value in state_dict.items():
    if name.rpartition('.')[2] in _DERIVED:
      continue
    new = _OLD_DENSENET.sub(r'\1\2', name)
    merging = _MERGING.fullmatch(name)
    if merging_begins and merging:
      new = f'layers.{int(merging.group(1)) - 1}.{merging.group(2)}'
    elif name.startswith('head.fc.'):
      new = name.replace('head.fc.', 'head.')
    if new in standard:
      raise ValueError(f'Two tensors of the file are both {new}.')
    standard[new] = value
  return standard


def is_parameter(name: str) -> bool:
  """Whether a tensor is trained, and so counts as parameters."""
  leaf = name.rpartition('.')[2]
  return leaf not in (*_DERIVED, 'running_mean', 'running_var')


def torch_name(architecture: str, path: tuple[str, ...]) -> str:
  """The standard name of a variable of `backbone_stages(architecture)`.

  Args:
    architecture: e.g. 'resnet50'.
    path: keys within the collection, e.g. ('stage0', 'conv', 'kernel').
  """
  *modules, leaf = path
  stage, *inner = modules
  names = {'resnet': _resnet, 'densenet': _densenet, 'swin': _swin}
  module = names[family_of(architecture)](int(stage[-1]), inner)
  return f'{module}.{leaf_name(leaf)}'


def leaf_name(leaf: str) -> str:
  """PyTorch's name of a variable: 'kernel' -> 'weight'."""
  return _LEAF.get(leaf, leaf)


def torch_shape(
  architecture: str, path: tuple[str, ...], shape: tuple[int, ...]
) -> tuple[int, ...]:
  """PyTorch's shape of a variable that has `shape` here."""
  if path[-1] != 'kernel':
    return shape
  if len(shape) == 4:
    height, width, inputs, outputs = shape
    return (outputs, inputs, height, width)
  # Our 1x1 convolutions are matrix products, too.
  linear = family_of(architecture) == 'swin' or 'classifier' in path
  return (shape[1], shape[0], *(() if linear else (1, 1)))


def from_torch(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
  """A tensor in our layout: OIHW -> HWIO, and OI or OI11 -> IO.

  Args:
    path: of the variable here.
    value: PyTorch's tensor, of the right shape.
  """
  if path[-1] != 'kernel':
    return value
  if value.ndim == 2:
    return value.T
  kernel = value.transpose(2, 3, 1, 0)
  return kernel[0, 0] if kernel.shape[:2] == (1, 1) else kernel


def _resnet(stage: int, inner: list[str]) -> str:
  """(1, ['block0', 'norm1']) -> 'layer1.0.bn1'."""
  if stage == 0:
    return {'conv': 'conv1', 'norm': 'bn1'}[inner[0]]
  block, layer = inner
  layer = {
    'shortcut': 'downsample.0',
    'shortcut_norm': 'downsample.1',
  }.get(layer, layer.replace('norm', 'bn'))
  return f'layer{stage}.{block.removeprefix("block")}.{layer}'


def _densenet(stage: int, inner: list[str]) -> str:
  """(1, ['layer0', 'norm1']) -> 'features.denseblock1.denselayer1.norm1'."""
  first, *rest = inner
  if stage == 0:
    return f'features.{first}0'
  if not rest:
    return 'features.norm5'
  if first == 'transition':
    return f'features.transition{stage}.{rest[0]}'
  layer = int(first.removeprefix('layer')) + 1
  return f'features.denseblock{stage}.denselayer{layer}.{rest[0]}'


def _swin(stage: int, inner: list[str]) -> str:
  """(1, ['block0', 'mlp', 'fc1']) -> 'layers.0.blocks.0.mlp.fc1'."""
  if stage == 0:
    return f'patch_embed.{inner[0]}'
  if inner == ['norm']:
    return 'norm'
  module = '.'.join(inner).replace('attention', 'attn')
  module = re.sub(r'^block(\d+)', r'blocks.\1', module)
  return f'layers.{stage - 1}.{module}'
