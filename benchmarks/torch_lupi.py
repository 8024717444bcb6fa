"""LUPI's network, losses and optimizer in PyTorch, to race against.

Synopsis:

  network = Network(classes, 'resnet50')
  load(network, variables)             # those of `configs/lupi.py`, in NumPy
  loss = lupi_loss(network, images, labels)   # stream -> [N, 3, H, W]
  optimizer = make_optimizer(network, fused=True)

Modules have the names of ours, so that weights carry over by their paths. The
plain network writes the affinity of its non-local blocks out, as public code
does; the other multiplies in the order that is cheaper.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

STREAMS = ('visible', 'infrared', 'intermediate')
# backbone: (bottlenecks, width, blocks of each stage)
LAYOUTS = {
  'resnet_small': (False, 32, (1, 1, 1, 1)),
  'resnet50': (True, 64, (3, 4, 6, 3)),
}
STRIDES = (1, 2, 2, 1)
NONLOCAL = (0, 2, 3, 0)
PRIVATE = 2  # the stem and the first residual stage


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
  return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


class Stem(nn.Module):
  """Stage 0."""

  def __init__(self, width: int):
    super().__init__()
    self.conv = _conv(3, width, 7, 2)
    self.norm = nn.BatchNorm2d(width)

  def forward(self, x):
    """[N, 3, H, W] -> [N, width, H / 4, W / 4]."""
    return functional.max_pool2d(self.norm(self.conv(x)).relu(), 3, 2, 1)


class Block(nn.Module):
  """A bottleneck, or the two convolutions of a small ResNet."""

  def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool):
    super().__init__()
    outputs = 4 * width if bottleneck else width
    if bottleneck:
      convs = [(inputs, width, 1, 1), (width, width, 3, stride)]
      convs += [(width, outputs, 1, 1)]
    else:
      convs = [(inputs, width, 3, stride), (width, width, 3, 1)]
    self.count = len(convs)
    for i, conv in enumerate(convs, 1):
      self.add_module(f'conv{i}', _conv(*conv))
      self.add_module(f'norm{i}', nn.BatchNorm2d(conv[1]))
    self.shortcut = None
    if stride > 1 or inputs != outputs:
      self.shortcut = _conv(inputs, outputs, 1, stride)
      self.shortcut_norm = nn.BatchNorm2d(outputs)

  def forward(self, x):
    """[N, C, h, w] -> [N, C', h / stride, w / stride]."""
    y = x
    for i in range(1, self.count + 1):
      y = getattr(self, f'norm{i}')(getattr(self, f'conv{i}')(y))
      y = y.relu() if i < self.count else y
    if self.shortcut is not None:
      x = self.shortcut_norm(self.shortcut(x))
    return (x + y).relu()


class NonLocal(nn.Module):
  """AGW's block with one inner channel, as released."""

  def __init__(self, channels: int, written_out: bool):
    super().__init__()
    self.written_out = written_out
    self.theta = nn.Conv2d(channels, 1, 1)
    self.phi = nn.Conv2d(channels, 1, 1)
    self.g = nn.Conv2d(channels, 1, 1)
    self.out = nn.Conv2d(1, channels, 1)
    self.norm = nn.BatchNorm2d(channels)
    nn.init.zeros_(self.norm.weight)

  def forward(self, x):
    """[N, C, h, w] -> the same shape."""
    n, _, h, w = x.shape
    theta = self.theta(x).flatten(2).transpose(1, 2)
    phi, g = self.phi(x).flatten(2), self.g(x).flatten(2).transpose(1, 2)
    if self.written_out:
      y = (theta @ phi / (h * w)) @ g
    else:
      y = theta @ (phi @ g / (h * w))
    return x + self.norm(self.out(y.transpose(1, 2).reshape(n, -1, h, w)))


class Stage(nn.Module):
  """Blocks of one width, the last of them followed by non-local ones."""

  def __init__(self, inputs: int, number: int, backbone: str, plain: bool):
    super().__init__()
    bottleneck, width, depths = LAYOUTS[backbone]
    width, depth = width * 2**number, depths[number]
    first = max(depth - NONLOCAL[number], 0)
    self.order = []
    self.outputs = inputs
    for i in range(depth):
      stride = 1 if i else STRIDES[number]
      block = Block(self.outputs, width, stride, bottleneck)
      self.outputs = 4 * width if bottleneck else width
      self._append(f'block{i}', block)
      if i >= first and NONLOCAL[number]:
        self._append(f'nonlocal{i - first}', NonLocal(self.outputs, plain))

  def _append(self, name: str, module: nn.Module):
    self.add_module(name, module)
    self.order.append(name)

  def forward(self, x):
    """[N, C, h, w] -> [N, C', h', w']."""
    for name in self.order:
      x = getattr(self, name)(x)
    return x


class Network(nn.Module):
  """Three streams with a stem and a stage each, shared stages, GeM, BNNeck."""

  def __init__(self, classes: int, backbone: str, plain: bool = False):
    super().__init__()
    self.backbone = nn.Module()
    width = LAYOUTS[backbone][1]
    for stream in STREAMS:
      self.backbone.add_module(f'{stream}_stage0', Stem(width))
      stage = Stage(width, 0, backbone, plain)
      self.backbone.add_module(f'{stream}_stage1', stage)
    channels = stage.outputs
    for i in range(PRIVATE, 5):
      stage = Stage(channels, i - 1, backbone, plain)
      self.backbone.add_module(f'stage{i}', stage)
      channels = stage.outputs
    self.head = nn.Module()
    self.head.neck = nn.BatchNorm1d(channels)
    self.head.neck.bias.requires_grad_(False)
    self.head.classifier = nn.Linear(channels, classes, bias=False)
    nn.init.normal_(self.head.classifier.weight, std=0.001)

  def forward(self, visible, infrared, intermediate):
    """Images of N people -> pooled [3 N, C] and logits, stream by stream."""
    maps = []
    images = zip(STREAMS, (visible, infrared, intermediate), strict=True)
    for stream, x in images:
      for i in range(PRIVATE):
        x = getattr(self.backbone, f'{stream}_stage{i}')(x)
      maps.append(x)
    x = torch.cat(maps)
    for i in range(PRIVATE, 5):
      x = getattr(self.backbone, f'stage{i}')(x)
    # Beyond autocast: pooling, neck and classifier are in single precision.
    with torch.autocast(x.device.type, enabled=False):
      pooled = ((x.float() ** 3).mean((2, 3)) + 1e-12) ** (1 / 3)
      return pooled, self.head.classifier(self.head.neck(pooled))


def lupi_loss(
  network: nn.Module,
  images: Mapping[str, torch.Tensor],
  labels: torch.Tensor,
  triplet_weight: float = 1.0,
  color_free_weight: float = 10.0,
) -> torch.Tensor:
  """L_id + L_tri + lambda L_c of LUPI, Eq. 5 to 8, of a batch in training."""
  pooled, logits = network(*(images[s] for s in STREAMS))
  with torch.autocast(pooled.device.type, enabled=False):
    identity = functional.cross_entropy(logits, labels.repeat(3))
    v, t, z = pooled.chunk(3)
    same = labels[:, None] == labels[None]
    cycle = (v, t, z), (t, z, v), (z, v, t)
    triplet = sum(_triplet(*sets, same).mean() for sets in cycle)
    v_logits, _, z_logits = logits.chunk(3)
    color_free = _color_free(v, z, v_logits, z_logits).mean()
  return identity + triplet_weight * triplet + color_free_weight * color_free


def _triplet(anchor, positive, negative, same, margin: float = 0.3):
  hardest = _distances(anchor, positive).masked_fill(~same, float('-inf'))
  nearest = _distances(anchor, negative).masked_fill(same, float('inf'))
  return (margin + hardest.amax(1) - nearest.amin(1)).relu()


def _distances(a, b):
  squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T
  return squared.clamp(min=1e-12).sqrt()


def _color_free(v, z, v_logits, z_logits, threshold=0.5, kl_weight=0.5):
  f_v, f_z = functional.normalize(v), functional.normalize(z)
  distance = ((f_v - f_z) ** 2).sum(1).clamp(min=1e-12).sqrt()
  log_v = v_logits.log_softmax(1)
  log_z = z_logits.log_softmax(1).detach()
  divergence = (log_z.exp() * (log_z - log_v)).sum(1)
  return torch.where(distance > threshold, distance, kl_weight * divergence)


def make_optimizer(network: Network, fused: bool) -> torch.optim.Optimizer:
  """AGW's: SGD with Nesterov's momentum, a tenth of the rate for the backbone.

  The rate is constant, and small enough for random weights.
  """
  groups: list[dict[str, Any]] = [
    {'params': network.backbone.parameters(), 'lr': 0.001},
    {'params': [p for p in network.head.parameters() if p.requires_grad]},
  ]
  return torch.optim.SGD(
    groups, 0.01, 0.9, weight_decay=5e-4, nesterov=True, fused=fused
  )


def load(network: Network, variables: Mapping[str, Any]):
  """Takes our weights over.

  Args:
    network: of the same backbone and number of classes.
    variables: {'params', 'batch_stats'} of an `EmbeddingNetwork`, in NumPy.

  Raises:
    ValueError: if a weight is missing here or there.
  """
  renamed = {'kernel': 'weight', 'scale': 'weight'}
  renamed |= {'mean': 'running_mean', 'var': 'running_var'}
  found = {}
  for part in ('params', 'batch_stats'):
    for path, value in _leaves(variables[part]):
      *modules, last = path
      found['.'.join([*modules, renamed.get(last, last)])] = value
  wanted = network.state_dict()
  rest = {n for n in wanted if n not in found}
  rest -= {n for n in rest if n.endswith('num_batches_tracked')}
  if rest != {'head.neck.bias'} or set(found) - set(wanted):
    raise ValueError(f'other weights: {rest} and {set(found) - set(wanted)}')
  with torch.no_grad():
    for name, value in found.items():
      wanted[name].copy_(torch.from_numpy(_layout(value, wanted[name])))


def _layout(value: np.ndarray, like: torch.Tensor) -> np.ndarray:
  """[h, w, in, out] and [in, out] as PyTorch has them."""
  if value.ndim == 4:
    value = value.transpose(3, 2, 0, 1)
  elif value.ndim == 2:
    value = value.T.reshape(like.shape)
  return np.array(value, order='C')  # a copy that PyTorch may write to


def _leaves(
  tree: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
  for name, value in tree.items():
    if isinstance(value, Mapping):
      yield from _leaves(value, (*path, name))
    else:
      yield (*path, name), np.asarray(value)
