"""Which architecture or release a file's tensors are of.

Synopsis:

  found = best_match(read('weights.pth').tensors)
  found.description, found.problems  # none: it fits
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxreid.models.head import Head
from jaxreid.models.pretrained import names, networks, stages
from jaxreid.models.pretrained.networks import Layout
from jaxreid.models.resnet import resnet_stages
from jaxreid.models.streams import EmbeddingNetwork, MultiStream

# A tensor that only members of a family have -> the published members.
_FAMILIES = {
  'layer1.0.conv1.weight': ('resnet50', 'resnet18', 'resnet34', 'resnet101'),
  'features.conv0.weight': ('densenet121',),
  'patch_embed.proj.weight': ('swin_tiny', 'swin_small', 'swin_base'),
}


class Match(NamedTuple):
  """What tensors are, or are nearest to.

  Attributes:
    description: in words.
    usage: the flags of `jaxreid.main` that take the file.
    problems: everything that does not fit, as `convert` would list it.
  """

  description: str
  usage: str
  problems: list[str]


def best_match(tensors: Mapping[str, np.ndarray]) -> Match | None:
  """The architecture or release with the fewest problems.

  Returns:
    None if the names are those of none that is known.
  """
  layout = networks.layout_of(tensors)
  if layout is not None:
    tried = [
      _match_network(tensors, layout, name) for name in ('resnet50', 'resnet18')
    ]
  else:
    standard = names.standard_names(tensors)
    tried = [
      _match_stages(tensors, name)
      for sign, members in _FAMILIES.items()
      if sign in standard
      for name in members
    ]
  return min(tried, key=lambda match: len(match.problems), default=None)


def _match_stages(tensors: Mapping[str, np.ndarray], name: str) -> Match:
  _, problems, _ = stages.try_convert(tensors, name)
  return Match(
    f'{name}, ImageNet stages',
    f'use it with --config.backbone.name={name} '
    '--config.backbone.pretrained=FILE',
    problems,
  )


def _match_network(
  tensors: Mapping[str, np.ndarray], layout: Layout, name: str
) -> Match:
  theta = tensors.get('NL_2.0.theta.weight')
  wide = theta is not None and len(theta) > 1
  options: dict[str, Any] = {
    **layout.backbone,
    'nonlocal_blocks': theta is not None,
    'nonlocal_width': 'intended' if wide else 'released',
  }
  classifier = tensors.get('classifier.weight')
  classes = 1 if classifier is None else len(classifier)
  shapes = _network_shapes(
    name, tuple(layout.private), layout.split, classes, tuple(options.items())
  )
  _, problems, _ = networks.try_fill(shapes, tensors, layout, name)
  flags = ' '.join(f'--config.backbone.{n}={v}' for n, v in options.items())
  return Match(
    f'the released {layout.name} network on {name}, {classes} classes',
    f'use it with --config={layout.config} --config.backbone.name={name} '
    f'{flags} --config.weights=FILE --mode=evaluate',
    problems,
  )


@functools.cache
def _network_shapes(
  name: str,
  streams: tuple[str, ...],
  split: int,
  classes: int,
  options: tuple[tuple[str, Any], ...],
) -> Any:
  network = EmbeddingNetwork(
    MultiStream(resnet_stages(name, **dict(options)), split, streams),
    Head(classes),
  )
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  return jax.eval_shape(
    lambda key, images: network.init(key, images, train=False),
    jax.random.key(0),
    dict.fromkeys(streams, image),
  )
