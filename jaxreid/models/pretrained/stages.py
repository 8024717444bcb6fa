"""ImageNet weights: published tensors -> stages -> an `EmbeddingNetwork`.

Synopsis:

  converted = convert(load('resnet50-0676ba61.pth'), 'resnet50')
  variables = fill_stages(variables, converted)
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from jaxreid.models.backbones import backbone_stages
from jaxreid.models.pretrained import names
from jaxreid.models.streams import MultiStream

_STAGE = re.compile(r'(?:.+_)?(stage\d+)')


def convert(
  state_dict: Mapping[str, np.ndarray], architecture: str
) -> dict[str, dict[str, Any]]:
  """Turns published tensors into variables of `backbone_stages`.

  Strict: every tensor has to be used, and every weight of the architecture
  has to be given. Only the ImageNet classifier is left out, with a line in
  the log; batch counters and tables that follow from the architecture are
  ignored.

  Args:
    state_dict: name -> array, as `load` gives it: torchvision's layout of a
      ResNet or a DenseNet (old or new names), a Swin's as published or as
      timm has it since 0.9.
    architecture: a name that `backbone_stages` knows.

  Returns:
    {'params': {'stage0': ..., 'stage4': ...}, 'batch_stats': same}; a Swin
    has no 'batch_stats'.

  Raises:
    ValueError: on an unknown architecture; or if a tensor is missing, is not
      part of the architecture, or has another shape: one error lists them all.
  """
  converted, problems, classifier = try_convert(state_dict, architecture)
  if problems:
    raise ValueError(
      f'The weights do not fit {architecture} ({len(problems)} problems):\n  '
      + '\n  '.join(problems + _window_hint(problems))
    )
  if classifier:
    logging.info('left out the ImageNet classifier: %s', ', '.join(classifier))
  return converted


def try_convert(
  state_dict: Mapping[str, np.ndarray], architecture: str
) -> tuple[Any, list[str], list[str]]:
  """As `convert`, but says what does not fit instead of raising an error.

  Returns:
    The variables (of no use if anything does not fit), what does not fit, and
    the names of the classifier's tensors.
  """
  shapes = _shapes(architecture)
  family = names.family_of(architecture)
  given = names.standard_names(state_dict)
  classifier = pop_modules(given, names.CLASSIFIERS[family])
  converted, problems = take(
    shapes,
    given,
    functools.partial(names.torch_name, architecture),
    architecture,
  )
  problems += [f'{name}: not part of {architecture}' for name in given]
  return converted, problems, classifier


def fill_stages(
  variables: Mapping[str, Any], converted: Mapping[str, Any]
) -> dict[str, Any]:
  """Copies converted stages into an `EmbeddingNetwork`.

  Stage i fills the shared 'stage{i}' and every private '{stream}_stage{i}'.
  The head and AGW's non-local blocks, which no ImageNet network has, keep
  their initial values.

  Args:
    variables: {'params': {'backbone': ..., 'head': ...}, 'batch_stats': same},
      as `EmbeddingNetwork.init` gives; arrays or their shapes.
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
  flat = {keys(p): v for p, v in jax.tree.leaves_with_path(converted)}

  def fill(path: tuple[Any, ...], leaf: Any) -> Any:
    collection, *rest = keys(path)
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


@functools.cache
def _shapes(architecture: str) -> Any:
  """Shapes of {'params', 'batch_stats'} of the architecture's stages."""
  network = MultiStream(backbone_stages(architecture), 0, ('any',))
  images = {'any': jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)}
  return jax.eval_shape(
    lambda key, images: network.init(key, images, train=False),
    jax.random.key(0),
    images,
  )


def take(
  shapes: Any,
  given: dict[str, np.ndarray],
  name_of: Callable[[tuple[str, ...]], str],
  architecture: str,
) -> tuple[Any, list[str]]:
  """Moves tensors out of `given` into a tree of variables.

  Args:
    shapes: tree of what has `shape` and `dtype`, a collection on top.
    given: standard name -> tensor; those that are used are taken out.
    name_of: path within the collection -> name in `given`.
    architecture: decides the shapes that tensors have in PyTorch.

  Returns:
    The tree with values, and what was missing or of another shape.
  """
  problems: list[str] = []

  def find(path: tuple[Any, ...], leaf: Any) -> Any:
    inner = keys(path)[1:]
    name = name_of(inner)
    if name not in given:
      problems.append(f'{name}: missing')
      return leaf
    value = np.asarray(given.pop(name))
    expected = names.torch_shape(architecture, inner, leaf.shape)
    if value.shape != expected:
      problems.append(f'{name}: shape {value.shape}, expected {expected}')
      return leaf
    return jnp.asarray(names.from_torch(inner, value), leaf.dtype)

  return jax.tree_util.tree_map_with_path(find, shapes), problems


def pop_modules(
  given: dict[str, np.ndarray], modules: tuple[str, ...]
) -> list[str]:
  """Takes the tensors of some modules out of `given`; returns their names."""
  found = [n for n in given if n.startswith(tuple(f'{m}.' for m in modules))]
  for name in found:
    del given[name]
  return found


def _window_hint(problems: list[str]) -> list[str]:
  """A sentence on Swins of another window size, if that is a problem."""
  if not any('relative_position_bias_table: shape' in p for p in problems):
    return []
  return [
    'the file was trained with windows of another size; take weights of the '
    "same window (7: the files named 'window7'), tables are not resized"
  ]


def keys(path: tuple[Any, ...]) -> tuple[str, ...]:
  """The names on a path of nested dictionaries."""
  return tuple(key.key for key in path)
