"""Weights that people already have: reading, converting, copying.

Synopsis:

  converted = convert(load('resnet50.safetensors'), 'resnet50')
  variables = fill_stages(variables, converted)

`convert` knows the layout of torchvision's ResNets and is strict: every tensor
has to be used, and every weight of the architecture has to be given.
"""

import pathlib
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from jaxreid.models.resnet import resnet_stages
from jaxreid.models.streams import MultiStream

_TORCH_SUFFIXES = ('.pth', '.pt', '.bin', '.ckpt')
_TORCH_LEAF = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}
_STAGE = re.compile(r'(?:.+_)?(stage\d+)')


def load(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Reads a file of named tensors.

  Args:
    path: a local .safetensors or .npz file.

  Returns:
    name -> array, as in the file.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is not a file of weights, or one of PyTorch's own (which
      may hold code); the message says how to convert that.
    ImportError: if .safetensors is read without the package safetensors.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(
      f'There is no weights file {path}. Download it, or leave the setting '
      'empty to start from random weights.'
    )
  if path.suffix in _TORCH_SUFFIXES:
    raise ValueError(
      f'{path} is a PyTorch file. Convert it with PyTorch first:\n'
      '  import torch, safetensors.torch\n'
      '  safetensors.torch.save_file(torch.load('
      f"'{path}', weights_only=True), '{path.with_suffix('.safetensors')}')"
    )
  if path.suffix == '.safetensors':
    return _load_safetensors(path)
  if path.suffix == '.npz':
    return _load_npz(path)
  raise ValueError(f'{path} is neither .safetensors nor .npz.')


def convert(
  state_dict: Mapping[str, np.ndarray], architecture: str
) -> dict[str, dict[str, Any]]:
  """Turns torchvision's tensors into variables of `resnet_stages`.

  The ImageNet classifier is left out, with a line in the log. Batch counters
  are ignored.

  Args:
    state_dict: name -> array in torchvision's layout, e.g. 'conv1.weight'
      [64, 3, 7, 7] and 'layer1.0.bn1.running_mean' [64].
    architecture: a name that `resnet_stages` knows.

  Returns:
    {'params': {'stage0': ..., 'stage4': ...}, 'batch_stats': same}.

  Raises:
    ValueError: on an unknown architecture; or if a tensor is missing, is not
      part of the architecture, or has another shape: one error lists them all.
  """
  given = dict(state_dict)
  for name in [n for n in given if n.endswith('num_batches_tracked')]:
    del given[name]
  classifier = [n for n in ('fc.weight', 'fc.bias') if n in given]
  for name in classifier:
    del given[name]
  if classifier:
    logging.info('left out the ImageNet classifier: %s', ', '.join(classifier))
  problems: list[str] = []

  def take(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
    name = _torch_name(tuple(key.key for key in path[1:]))
    if name not in given:
      problems.append(f'{name}: missing')
      return jnp.zeros(())
    value, expected = np.asarray(given.pop(name)), _torch_shape(leaf.shape)
    if value.shape != expected:
      problems.append(f'{name}: shape {value.shape}, expected {expected}')
      return jnp.zeros(())
    return jnp.asarray(_from_torch(value, leaf.ndim), leaf.dtype)

  converted = jax.tree_util.tree_map_with_path(take, _template(architecture))
  problems += [f'{name}: not part of {architecture}' for name in given]
  if problems:
    raise ValueError(
      f'The weights do not fit {architecture} ({len(problems)} problems):\n  '
      + '\n  '.join(problems)
    )
  return converted


def fill_stages(
  variables: Mapping[str, Any], converted: Mapping[str, Any]
) -> dict[str, Any]:
  """Copies converted stages into an `EmbeddingNetwork`.

  Stage i fills the shared 'stage{i}' and every private '{stream}_stage{i}'.
  The head and AGW's non-local blocks, which no ImageNet network has, keep
  their initial values.

  Args:
    variables: {'params': {'backbone': ..., 'head': ...}, 'batch_stats': same},
      as `EmbeddingNetwork.init` gives.
    converted: what `convert` gives.

  Returns:
    New variables of the same structure.

  Raises:
    ValueError: listing every parameter of the backbone that the converted
      weights lack or that has another shape there, and every converted tensor
      without a place.
  """
  problems: list[str] = []
  used = set()
  flat = {_keys(p): v for p, v in jax.tree.leaves_with_path(converted)}

  def fill(path: tuple[Any, ...], leaf: Any) -> Any:
    collection, *rest = _keys(path)
    if rest[0] != 'backbone':
      return leaf
    stage = _STAGE.fullmatch(rest[1])
    source = (collection, stage.group(1) if stage else rest[1], *rest[2:])
    if source not in flat:
      if not rest[2].startswith('nonlocal'):
        problems.append(f'{"/".join((collection, *rest))}: missing')
      return leaf
    used.add(source)
    value = flat[source]
    if value.shape != leaf.shape:
      problems.append(
        f'{"/".join((collection, *rest))}: shape {value.shape}, expected '
        f'{leaf.shape}'
      )
    return jnp.asarray(value, leaf.dtype)

  filled = jax.tree_util.tree_map_with_path(fill, dict(variables))
  problems += [
    f'{"/".join(key)}: without a place in the network'
    for key in flat
    if key not in used
  ]
  if problems:
    raise ValueError(
      f'The converted weights do not fit the network ({len(problems)} '
      'problems):\n  ' + '\n  '.join(problems)
    )
  return filled


def _template(architecture: str) -> Any:
  """Shapes of {'params', 'batch_stats'} of the architecture's stages."""
  network = MultiStream(resnet_stages(architecture), 0, ('any',))
  images = {'any': jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)}
  return jax.eval_shape(
    lambda key, images: network.init(key, images, train=False),
    jax.random.key(0),
    images,
  )


def _torch_name(path: tuple[str, ...]) -> str:
  """('stage1', 'block0', 'norm1', 'scale') -> 'layer1.0.bn1.weight'."""
  stage, *block, layer, leaf = path
  if stage == 'stage0':
    return {'conv': 'conv1', 'norm': 'bn1'}[layer] + f'.{_TORCH_LEAF[leaf]}'
  layer = {
    'shortcut': 'downsample.0',
    'shortcut_norm': 'downsample.1',
  }.get(layer, layer.replace('norm', 'bn'))
  index = block[0].removeprefix('block')
  number = stage.removeprefix('stage')
  return f'layer{number}.{index}.{layer}.{_TORCH_LEAF[leaf]}'


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
  """PyTorch's shape of a tensor that has `shape` here."""
  match shape:
    case (height, width, inputs, outputs):
      return (outputs, inputs, height, width)
    case (inputs, outputs):
      # Our 1x1 convolutions are matrix products.
      return (outputs, inputs, 1, 1)
    case _:
      return shape


def _from_torch(value: np.ndarray, ndim: int) -> np.ndarray:
  """OIHW -> HWIO, or IO where the kernel is a matrix here."""
  if value.ndim == 4:
    value = value.transpose(2, 3, 1, 0)
  return value[0, 0] if ndim == 2 else value


def _keys(path: tuple[Any, ...]) -> tuple[str, ...]:
  return tuple(key.key for key in path)


def _load_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    import safetensors
    import safetensors.numpy
  except ImportError as error:
    raise ImportError(
      f"{path} needs the package safetensors: pip install 'jaxreid[convert]'."
    ) from error
  try:
    return safetensors.numpy.load_file(path)
  except (safetensors.SafetensorError, KeyError, TypeError) as error:
    raise ValueError(
      f'{path} is not a safetensors file of weights, or is truncated: {error}'
    ) from error


def _load_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    # Without pickle no file can run code.
    with path.open('rb') as file:
      archive = np.load(file, allow_pickle=False)
      if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError('it holds a single array')
      return dict(archive)
  except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
    raise ValueError(
      f'{path} is not an .npz file of weights, or is truncated: {error}'
    ) from error
