"""The published architectures in PyTorch, under the published names.

Written from the papers and from the names and shapes in the released files,
for comparison with `jaxreid.models`; `feature_map` gives [N, C, h, w].
"""

import torch
from torch import nn
from torch.nn import functional

DEPTHS = {'resnet50': (3, 4, 6, 3), 'densenet121': (6, 12, 24, 16)}


def _conv(inputs, outputs, size, stride=1):
  return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


class Bottleneck(nn.Module):
  """ResNet's block, with the stride on the 3x3 convolution."""

  def __init__(self, inputs, width, stride):
    super().__init__()
    self.conv1 = _conv(inputs, width, 1)
    self.bn1 = nn.BatchNorm2d(width)
    self.conv2 = _conv(width, width, 3, stride)
    self.bn2 = nn.BatchNorm2d(width)
    self.conv3 = _conv(width, 4 * width, 1)
    self.bn3 = nn.BatchNorm2d(4 * width)
    self.downsample = None
    if stride > 1 or inputs != 4 * width:
      self.downsample = nn.Sequential(
        _conv(inputs, 4 * width, 1, stride), nn.BatchNorm2d(4 * width)
      )

  def forward(self, x):
    y = self.bn1(self.conv1(x)).relu()
    y = self.bn2(self.conv2(y)).relu()
    y = self.bn3(self.conv3(y))
    return (y + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet50(nn.Module):
  """With torchvision's names."""

  def __init__(self, last_stride=2, classifier=True):
    super().__init__()
    self.conv1 = _conv(3, 64, 7, 2)
    self.bn1 = nn.BatchNorm2d(64)
    inputs, strides = 64, (1, 2, 2, last_stride)
    for i, depth in enumerate(DEPTHS['resnet50']):
      width = 64 * 2**i
      blocks = []
      for b in range(depth):
        blocks.append(Bottleneck(inputs, width, 1 if b else strides[i]))
        inputs = 4 * width
      self.add_module(f'layer{i + 1}', nn.Sequential(*blocks))
    if classifier:
      self.fc = nn.Linear(2048, 1000)

  def stem(self, x):
    x = self.bn1(self.conv1(x)).relu()
    return functional.max_pool2d(x, 3, 2, 1)

  def feature_map(self, x):
    x = self.stem(x)
    for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
      x = layer(x)
    return x


class DenseLayer(nn.Module):
  """What one layer of a dense block appends."""

  def __init__(self, inputs, growth=32):
    super().__init__()
    self.norm1 = nn.BatchNorm2d(inputs)
    self.conv1 = _conv(inputs, 4 * growth, 1)
    self.norm2 = nn.BatchNorm2d(4 * growth)
    self.conv2 = _conv(4 * growth, growth, 3)

  def forward(self, x):
    y = self.conv1(self.norm1(x).relu())
    return torch.cat([x, self.conv2(self.norm2(y).relu())], 1)


class DenseNet121(nn.Module):
  """With torchvision's names; `last_stride` as jaxreid has it."""

  def __init__(self, last_stride=2):
    super().__init__()
    parts = {'conv0': _conv(3, 64, 7, 2), 'norm0': nn.BatchNorm2d(64)}
    width = 64
    for b, depth in enumerate(DEPTHS['densenet121'], 1):
      block = nn.Sequential()
      for i in range(depth):
        block.add_module(f'denselayer{i + 1}', DenseLayer(width))
        width += 32
      parts[f'denseblock{b}'] = block
      if b < 4:
        parts[f'transition{b}'] = nn.ModuleDict(
          {'norm': nn.BatchNorm2d(width), 'conv': _conv(width, width // 2, 1)}
        )
        width //= 2
    parts['norm5'] = nn.BatchNorm2d(width)
    self.features = nn.ModuleDict(parts)
    self.classifier = nn.Linear(width, 1000)
    self.strides = {1: 2, 2: 2, 3: last_stride}

  def feature_map(self, x):
    parts = self.features
    x = parts['norm0'](parts['conv0'](x)).relu()
    x = functional.max_pool2d(x, 3, 2, 1)
    for b in (1, 2, 3, 4):
      x = parts[f'denseblock{b}'](x)
      if b < 4:
        transition = parts[f'transition{b}']
        x = transition['conv'](transition['norm'](x).relu())
        x = functional.avg_pool2d(x, 2) if self.strides[b] == 2 else x
    return parts['norm5'](x).relu()


class NonLocal(nn.Module):
  """AGW's block, the affinity written out."""

  def __init__(self, channels, inner):
    super().__init__()
    self.g = nn.Sequential(nn.Conv2d(channels, inner, 1))
    self.theta = nn.Conv2d(channels, inner, 1)
    self.phi = nn.Conv2d(channels, inner, 1)
    self.W = nn.Sequential(
      nn.Conv2d(inner, channels, 1), nn.BatchNorm2d(channels)
    )

  def forward(self, x):
    n, _, h, w = x.shape
    theta = self.theta(x).flatten(2).transpose(1, 2)
    affinity = theta @ self.phi(x).flatten(2) / (h * w)
    y = affinity @ self.g(x).flatten(2).transpose(1, 2)
    return x + self.W(y.transpose(1, 2).reshape(n, -1, h, w))


class AGW(nn.Module):
  """Two stems, one ResNet-50 with non-local blocks, GeM, BNNeck, classifier.

  With the names of the released checkpoints, which hold three whole networks.
  `inner` gives the non-local blocks' width for a number of channels.
  """

  def __init__(self, classes, inner):
    super().__init__()
    self.visible_module = nn.ModuleDict({'visible': self._resnet()})
    self.thermal_module = nn.ModuleDict({'thermal': self._resnet()})
    self.base_resnet = nn.ModuleDict({'base': self._resnet()})
    self.NL_2 = nn.ModuleList(NonLocal(512, inner(512)) for _ in range(2))
    self.NL_3 = nn.ModuleList(NonLocal(1024, inner(1024)) for _ in range(3))
    self.bottleneck = nn.BatchNorm1d(2048)
    self.bottleneck.bias.requires_grad_(False)
    self.classifier = nn.Linear(2048, classes, bias=False)

  def _resnet(self):
    return ResNet50(last_stride=1, classifier=False)

  def forward(self, visible, thermal):
    """The feature before the BNNeck, after it, and logits; visible first."""
    x = torch.cat(
      [
        self.visible_module['visible'].stem(visible),
        self.thermal_module['thermal'].stem(thermal),
      ]
    )
    base = self.base_resnet['base']
    x = base.layer1(x)
    for layer, blocks in ((base.layer2, self.NL_2), (base.layer3, self.NL_3)):
      for i, block in enumerate(layer):
        x = block(x)
        late = i - (len(layer) - len(blocks))
        x = blocks[late](x) if late >= 0 else x
    x = base.layer4(x)
    pooled = ((x**3).mean((2, 3)) + 1e-12) ** (1 / 3)
    neck = self.bottleneck(pooled)
    return pooled, neck, self.classifier(neck)


class Attention(nn.Module):
  """Swin's attention over all pairs of tokens that share a window.

  With a grid of windows displaced by `shift`, tokens (y, x) and (v, u) meet
  if floor((y - shift) / window) is that of v, and likewise across. That is
  what rolling, cutting and masking come to, and it needs no padding.
  """

  def __init__(self, width, heads, window, shift):
    super().__init__()
    self.heads, self.window, self.shift = heads, window, shift
    self.qkv = nn.Linear(width, 3 * width)
    self.proj = nn.Linear(width, width)
    side = 2 * window - 1
    self.relative_position_bias_table = nn.Parameter(
      torch.zeros(side * side, heads)
    )
    self.register_buffer(
      'relative_position_index', torch.zeros(window**2, window**2).long()
    )

  def _qkv(self, x):
    # All queries, all keys, all values; [3, ..., heads, tokens, d].
    qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
    return qkv.movedim(-3, 0).transpose(-3, -2)

  def _attend(self, q, k, v, bias):
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias
    y = scores.softmax(-1) @ v
    return self.proj(y.transpose(-3, -2).flatten(-2))

  def _bias(self, dy, dx):
    """[heads, queries, keys] from offsets within a window."""
    reach = self.window - 1
    row = (dy + reach) * (2 * self.window - 1) + dx + reach
    return self.relative_position_bias_table[row].movedim(-1, 0)

  def forward(self, x):
    n, h, w, c = x.shape
    shifts = [self.shift if size > self.window else 0 for size in (h, w)]
    y, x_ = torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
    y, x_ = y.flatten(), x_.flatten()
    rows = torch.div(y - shifts[0], self.window, rounding_mode='floor')
    columns = torch.div(x_ - shifts[1], self.window, rounding_mode='floor')
    apart = rows[:, None] != rows[None]
    apart |= columns[:, None] != columns[None]
    dy, dx = y[:, None] - y[None], x_[:, None] - x_[None]
    bias = self._bias(dy.masked_fill(apart, 0), dx.masked_fill(apart, 0))
    bias = bias.masked_fill(apart, float('-inf'))
    q, k, v = self._qkv(x.flatten(1, 2))
    return self._attend(q, k, v, bias).reshape(n, h, w, c)


class TiledAttention(Attention):
  """The published form: roll, cut into windows that tile, mask by -100."""

  def forward(self, x):
    n, h, w, c = x.shape
    size = self.window
    shift = 0 if min(h, w) <= size else self.shift
    inside = torch.arange(size * size)
    y, x_ = inside // size, inside % size
    bias = self._bias(y[:, None] - y[None], x_[:, None] - x_[None])
    q, k, v = self._qkv(self._cut(x.roll((-shift, -shift), (1, 2))))
    region = torch.zeros(1, h, w, 1)
    edges = (slice(-size), slice(-size, -shift), slice(-shift, None))
    for number in range(9 if shift else 0):
      region[:, edges[number // 3], edges[number % 3]] = number
    region = self._cut(region)[..., 0]
    mask = -100.0 * (region[:, :, :, None] != region[:, :, None, :])
    y = self._attend(q, k, v, bias + mask[:, :, None])
    y = y.reshape(n, h // size, w // size, size, size, c).transpose(2, 3)
    return y.reshape(n, h, w, c).roll((shift, shift), (1, 2))

  def _cut(self, x):
    """[N, windows, tokens, C]."""
    x = x.unflatten(1, (-1, self.window)).unflatten(3, (-1, self.window))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class SwinBlock(nn.Module):
  """Attention and MLP, both after a LayerNorm and beside a shortcut."""

  def __init__(self, width, heads, window, shift, attention):
    super().__init__()
    self.norm1 = nn.LayerNorm(width)
    self.attn = attention(width, heads, window, shift)
    self.norm2 = nn.LayerNorm(width)
    self.mlp = nn.ModuleDict(
      {
        'fc1': nn.Linear(width, 4 * width),
        'fc2': nn.Linear(4 * width, width),
      }
    )

  def forward(self, x):
    x = x + self.attn(self.norm1(x))
    y = functional.gelu(self.mlp['fc1'](self.norm2(x)))
    return x + self.mlp['fc2'](y)


class SwinLayer(nn.Module):
  """The blocks of a stage, and the patch merging at its end."""

  def __init__(self, width, depth, heads, window, last, attention):
    super().__init__()
    self.blocks = nn.Sequential(
      *(
        SwinBlock(width, heads, window, window // 2 * (b % 2), attention)
        for b in range(depth)
      )
    )
    self.downsample = None
    if not last:
      self.downsample = nn.ModuleDict(
        {
          'norm': nn.LayerNorm(4 * width),
          'reduction': nn.Linear(4 * width, 2 * width, bias=False),
        }
      )

  def forward(self, x):
    x = self.blocks(x)
    if self.downsample is None:
      return x
    x = functional.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
    x = torch.cat(
      [x[:, ::2, ::2], x[:, 1::2, ::2], x[:, ::2, 1::2], x[:, 1::2, 1::2]], -1
    )
    return self.downsample['reduction'](self.downsample['norm'](x))


class Swin(nn.Module):
  """With the names of the official file; Swin-T unless told otherwise."""

  def __init__(
    self,
    width=96,
    depths=(2, 2, 6, 2),
    heads=(3, 6, 12, 24),
    window=7,
    attention=Attention,
  ):
    super().__init__()
    self.patch_embed = nn.ModuleDict(
      {'proj': nn.Conv2d(3, width, 4, 4), 'norm': nn.LayerNorm(width)}
    )
    self.layers = nn.Sequential(
      *(
        SwinLayer(width * 2**i, depth, heads[i], window, i == 3, attention)
        for i, depth in enumerate(depths)
      )
    )
    self.norm = nn.LayerNorm(8 * width)
    self.head = nn.Linear(8 * width, 1000)

  def feature_map(self, x):
    x = functional.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
    x = self.patch_embed['proj'](x).movedim(1, -1)
    x = self.norm(self.layers(self.patch_embed['norm'](x)))
    return x.movedim(-1, 1)


def randomise(module, run, seed):
  """Gives every parameter and statistic a value that would be missed.

  The statistics of non-local blocks are those of a batch in eval mode, nearly:
  cubic in their input, these blocks would overflow one after another.

  Args:
    module: the network.
    run: () -> anything, a forward pass of a batch.
    seed: of the values.
  """
  generator = torch.Generator().manual_seed(seed)
  # Children before parents, which may know better.
  for part in reversed(list(module.modules())):
    _randomise(part, generator)
  module.eval()
  blocks = [part for part in module.modules() if isinstance(part, NonLocal)]
  for block in blocks:
    block.W[1].train().momentum = 1.0
  with torch.no_grad():
    if blocks:
      run()
    for block in blocks:
      block.W[1].momentum = 0.1
      off = torch.empty_like(block.W[1].running_var)
      block.W[1].running_var *= off.uniform_(0.8, 1.2, generator=generator)


def _randomise(part, generator):
  def uniform(tensor, low, high):
    with torch.no_grad():
      tensor.uniform_(low, high, generator=generator)

  if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d | nn.LayerNorm):
    uniform(part.weight, 0.5, 1.5)
    if part.bias.requires_grad:
      uniform(part.bias, -0.5, 0.5)
  if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
    uniform(part.running_mean, -0.5, 0.5)
    uniform(part.running_var, 0.5, 2)
  if isinstance(part, nn.Conv2d | nn.Linear):
    bound = (3 / part.weight[0].numel()) ** 0.5
    uniform(part.weight, -bound, bound)
    if part.bias is not None:
      uniform(part.bias, -0.5, 0.5)
  # A deviation would grow from block to block, as it does not once trained.
  if isinstance(part, Bottleneck):
    uniform(part.bn3.weight, 0.05, 0.25)
  if isinstance(part, NonLocal):
    uniform(part.W[1].weight, 0.1, 0.3)
  if isinstance(part, Attention):
    uniform(part.relative_position_bias_table, -1, 1)
