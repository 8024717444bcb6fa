"""Weights that people already have: reading, converting, copying.

Synopsis:

  converted = convert(load('resnet50-0676ba61.pth'), 'resnet50')
  variables = fill_stages(variables, converted)     # ImageNet weights

  variables = fill_network(variables, load('agw.t'), backbone)   # a release

From the shell:

  python -m jaxreid.models.pretrained inspect FILE
  python -m jaxreid.models.pretrained convert FILE OUT.safetensors

`convert` and `fill_network` are strict: every tensor has to be used, and every
weight of the architecture has to be given. docs/weights.md says which file
goes with which config.
"""

from jaxreid.models.pretrained.files import Weights, checksum, load, read
from jaxreid.models.pretrained.networks import (
  check_network,
  fill_network,
  layout_of,
)
from jaxreid.models.pretrained.stages import convert, fill_stages

__all__ = [
  'Weights',
  'check_network',
  'checksum',
  'convert',
  'fill_network',
  'fill_stages',
  'layout_of',
  'load',
  'read',
]
