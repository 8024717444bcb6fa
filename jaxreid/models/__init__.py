"""Flax modules: backbones as lists of stages, streams and heads.

Synopsis:

  stages = resnet_stages('resnet50')
  network = EmbeddingNetwork(
    MultiStream(stages, split=2, streams=('visible', 'infrared')),
    Head(num_classes=395),
  )
  variables = network.init(key, images, train=False)
"""

from jaxreid.models.batch_norm import BatchNorm
from jaxreid.models.head import Head, HeadOutput
from jaxreid.models.nonlocal_block import NonLocalBlock
from jaxreid.models.resnet import resnet_stages
from jaxreid.models.streams import (
  EmbeddingNetwork,
  MultiStream,
  NetworkOutput,
  count_parameters,
)

__all__ = [
  'BatchNorm',
  'EmbeddingNetwork',
  'Head',
  'HeadOutput',
  'MultiStream',
  'NetworkOutput',
  'NonLocalBlock',
  'count_parameters',
  'resnet_stages',
]
