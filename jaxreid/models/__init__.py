"""Flax modules: backbones as lists of stages, streams and heads.

Synopsis:

  stages = backbone_stages('resnet50')
  network = EmbeddingNetwork(
    MultiStream(stages, split=2, streams=('visible', 'infrared')),
    Head(num_classes=395),
  )
  variables = network.init(key, images, train=False)
"""

from jaxreid.models.backbones import backbone_stages
from jaxreid.models.batch_norm import BatchNorm
from jaxreid.models.densenet import densenet_stages
from jaxreid.models.head import Head, HeadOutput
from jaxreid.models.nonlocal_block import NonLocalBlock
from jaxreid.models.resnet import resnet_stages
from jaxreid.models.streams import (
  EmbeddingNetwork,
  MultiStream,
  NetworkOutput,
  count_parameters,
)
from jaxreid.models.swin import swin_stages

__all__ = [
  'BatchNorm',
  'EmbeddingNetwork',
  'Head',
  'HeadOutput',
  'MultiStream',
  'NetworkOutput',
  'NonLocalBlock',
  'backbone_stages',
  'count_parameters',
  'densenet_stages',
  'resnet_stages',
  'swin_stages',
]
