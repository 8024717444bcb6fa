"""Whole networks as AGW's and LUPI's authors released them.

Synopsis:

  layout = layout_of(state_dict)  # AGW, LUPI or None
  variables = fill_network(variables, state_dict, config.backbone)

Of AGW's modules only a part is in use: each modality's holds a whole ResNet
of which the stem serves, the shared one another of which all but the stem
does. LUPI's were cut to what is in use, and its stem has no ReLU.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from jaxreid.models.pretrained import names
from jaxreid.models.pretrained.stages import pop_modules, take

_NONLOCAL = {
  'theta': 'theta',
  'phi': 'phi',
  'g': 'g.0',
  'out': 'W.0',
  'norm': 'W.1',
}
_LAYERS = tuple(f'layer{i}' for i in range(1, 5))


class Layout(NamedTuple):
  """How a release is laid out, and what it asks of a config.

  Attributes:
    name: of the method.
    private: stream here -> prefix of its module there.
    shared: prefix of the shared module.
    split: number of private stages.
    renamed: torchvision's module -> its name within the prefixes.
    unused: modules that the release stores without using them.
    backbone: fields of `config.backbone` that the weights were trained with.
    config: the config file to use.
  """

  name: str
  private: dict[str, str]
  shared: str
  split: int
  renamed: dict[str, str]
  unused: tuple[str, ...]
  backbone: dict[str, Any]
  config: str


AGW = Layout(
  name='AGW',
  private={
    'visible': 'visible_module.visible',
    'infrared': 'thermal_module.thermal',
  },
  shared='base_resnet.base',
  split=1,
  renamed={},
  unused=tuple(
    f'{module}.{part}'
    for module, parts in (
      ('visible_module.visible', (*_LAYERS, 'fc')),
      ('thermal_module.thermal', (*_LAYERS, 'fc')),
      ('base_resnet.base', ('conv1', 'bn1', 'fc')),
    )
    for part in parts
  ),
  backbone={'stem_relu': True, 'last_stride': 1},
  config='configs/baseline.py',
)
LUPI = Layout(
  name='LUPI',
  private={
    'visible': 'visible_module.resnet_part1',
    'infrared': 'thermal_module.resnet_part1',
    'intermediate': 'gray_module.resnet_part1',
  },
  shared='base_resnet.resnet_part2',
  split=2,
  renamed={
    'conv1': '0',
    'bn1': '1',
    'layer1': '3',
    'layer2': '0',
    'layer3': '1',
    'layer4': '2',
  },
  unused=(),
  backbone={'stem_relu': False, 'last_stride': 1},
  config='configs/lupi.py',
)


def layout_of(state_dict: Mapping[str, np.ndarray]) -> Layout | None:
  """Which release the tensors are named after; None if neither."""
  for layout in (AGW, LUPI):
    stem = f'{layout.private["visible"]}.{layout.renamed.get("conv1", "conv1")}'
    if f'{stem}.weight' in state_dict:
      return layout
  return None


def fill_network(
  variables: Mapping[str, Any],
  state_dict: Mapping[str, np.ndarray],
  backbone: Mapping[str, Any],
) -> dict[str, Any]:
  """Copies a released network, head and running statistics included.

  The log says what is left out on purpose: what the release stores without
  using it, and a classifier of another number of classes, which no embedding
  needs.

  Args:
    variables: {'params': {'backbone': ..., 'head': ...}, 'batch_stats': same},
      as `EmbeddingNetwork.init` gives; arrays or their shapes.
    state_dict: name -> array, as `load` gives it.
    backbone: the section of the config: 'name', and the fields that leave no
      trace in the tensors ('stem_relu', 'last_stride').

  Returns:
    New variables of the same structure.

  Raises:
    ValueError: if the tensors are of no known release; if the config differs
      from the release in such a field or in its streams, naming them; if the
      BNNeck has a bias; or if a tensor is missing, has no place or another
      shape: one error lists them all.
  """
  filled, notes = _fill(variables, state_dict, backbone)
  for note in notes:
    logging.info(note)
  return filled


def check_network(
  variables: Mapping[str, Any],
  state_dict: Mapping[str, np.ndarray],
  backbone: Mapping[str, Any],
):
  """Raises what `fill_network` would raise, and does nothing else."""
  _fill(variables, state_dict, backbone)


def _fill(
  variables: Mapping[str, Any],
  state_dict: Mapping[str, np.ndarray],
  backbone: Mapping[str, Any],
) -> tuple[dict[str, Any], list[str]]:
  layout = layout_of(state_dict)
  if layout is None:
    raise ValueError(
      'the weights are not a whole network that AGW or LUPI released; stages '
      'alone belong into backbone.pretrained'
    )
  _check_config(layout, variables, backbone)
  filled, problems, notes = try_fill(
    variables, state_dict, layout, backbone['name']
  )
  if problems:
    raise ValueError(
      f'The {layout.name} weights do not fit the network of the config '
      f'({len(problems)} problems):\n  '
      + '\n  '.join(problems + _hints(problems, layout))
    )
  return filled, notes


def try_fill(
  variables: Mapping[str, Any],
  state_dict: Mapping[str, np.ndarray],
  layout: Layout,
  architecture: str,
) -> tuple[Any, list[str], list[str]]:
  """As `fill_network`, but says what does not fit and looks at no config.

  Returns:
    The variables (of no use if anything does not fit), what does not fit, and
    a sentence on everything that is left out on purpose.
  """
  given = names.standard_names(state_dict)
  unused = pop_modules(given, layout.unused)
  notes = [f'{n}: stored by {layout.name}, never used' for n in unused]
  shapes = {name: dict(tree) for name, tree in variables.items()}
  ours = _pop_other_classifier(shapes, given)
  problems = _pop_neck_bias(given)
  filled, unfilled = take(
    shapes, given, _namer(layout, architecture), architecture
  )
  problems += unfilled
  problems += [f'{name}: not part of the network' for name in given]
  if ours is not None:
    notes.append('classifier.weight: left out, of another number of classes')
    filled['params']['head'] = {**filled['params']['head'], 'classifier': ours}
  return filled, problems, notes


def _check_config(
  layout: Layout, variables: Mapping[str, Any], backbone: Mapping[str, Any]
):
  wrong = [
    f'backbone.{name}={value}, not {backbone.get(name)}'
    for name, value in layout.backbone.items()
    # None stands for the usual last stride.
    if backbone.get(name) not in (value, None)
  ]
  if wrong:
    raise ValueError(
      f'the released {layout.name} network needs {" and ".join(wrong)}: the '
      'weights fit either way, the embeddings would be wrong'
    )
  if names.family_of(backbone['name']) != 'resnet':
    raise ValueError(
      f'the released {layout.name} network is a ResNet; backbone.name is '
      f'{backbone["name"]!r}'
    )
  expected = {
    f'{stream}_stage{i}'
    for stream in layout.private
    for i in range(layout.split)
  }
  private = {n for n in variables['params']['backbone'] if '_' in n}
  if private != expected:
    raise ValueError(
      f'the released {layout.name} network has the private stages '
      f'{", ".join(sorted(expected))}, the config '
      f'{", ".join(sorted(private)) or "none"}; use --config={layout.config} '
      f'and method.split={layout.split}'
    )


def _pop_other_classifier(
  shapes: dict[str, dict[str, Any]], given: dict[str, np.ndarray]
) -> Any:
  """Takes a classifier that does not fit out of both; returns ours."""
  head = shapes['params']['head']
  theirs = given.get('classifier.weight')
  kernel = head['classifier']['kernel']
  if theirs is None or theirs.shape[1:] != kernel.shape[:1]:
    return None  # a problem, which `take` names
  if len(theirs) == kernel.shape[1]:
    return None
  del given['classifier.weight']
  shapes['params']['head'] = {
    n: v for n, v in head.items() if n != 'classifier'
  }
  return head['classifier']


def _pop_neck_bias(given: dict[str, np.ndarray]) -> list[str]:
  """Takes out the BNNeck's bias, which has to be zero: ours has none."""
  bias = given.pop('bottleneck.bias', np.zeros(1))
  if not bias.any():
    return []
  largest = float(np.abs(bias).max())
  return [f'bottleneck.bias: up to {largest:.3g}, but a BNNeck has none']


def _namer(
  layout: Layout, architecture: str
) -> Callable[[tuple[str, ...]], str]:
  """Path within a collection -> the release's name."""

  def name_of(path: tuple[str, ...]) -> str:
    part, module, *inner = path
    if part == 'head':
      renamed = {'neck': 'bottleneck'}.get(module, module)
      return f'{renamed}.{names.leaf_name(inner[-1])}'
    stream, _, stage = module.rpartition('_')
    if inner[0].startswith('nonlocal'):
      block, layer, leaf = inner
      number = block.removeprefix('nonlocal')
      return (
        f'NL_{stage[-1]}.{number}.{_NONLOCAL[layer]}.{names.leaf_name(leaf)}'
      )
    prefix = layout.private[stream] if stream else layout.shared
    standard = names.torch_name(architecture, (stage, *inner))
    first, _, rest = standard.partition('.')
    return f'{prefix}.{layout.renamed.get(first, first)}.{rest}'

  return name_of


def _hints(problems: list[str], layout: Layout) -> list[str]:
  """Which field of a config may be meant."""
  of_nonlocal = [p for p in problems if p.startswith('NL_')]
  hints = []
  if any(p.endswith('not part of the network') for p in of_nonlocal):
    hints.append('backbone.nonlocal_blocks=True has non-local blocks')
  if any(p.endswith('missing') for p in of_nonlocal):
    hints.append('backbone.nonlocal_blocks=False leaves non-local blocks out')
  if any(': shape' in p for p in of_nonlocal):
    hints.append(
      "backbone.nonlocal_width='released' has 1 channel within them, "
      "'intended' half of those around"
    )
  if any(p.startswith(layout.shared) for p in problems):
    hints.append(
      '`python -m jaxreid.models.pretrained inspect FILE` says which '
      'backbone.name fits'
    )
  return hints
