"""DenseNet and Swin weights: every published name finds its place."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxreid.models import backbone_stages, pretrained
from jaxreid.models.head import Head
from jaxreid.models.streams import EmbeddingNetwork, MultiStream

SWINS = {
  'swin_tiny': (96, (2, 2, 6, 2), (3, 6, 12, 24)),
  'swin_small': (96, (2, 2, 18, 2), (3, 6, 12, 24)),
  'swin_base': (128, (2, 2, 18, 2), (4, 8, 16, 32)),
}
# Of the classifiers on ImageNet: torchvision's and the Swin authors' tables
# (theirs are rounded: 28, 50 and 88 million).
PUBLISHED = {'densenet121': 7_978_856, 'swin_tiny': 28_288_354}


class _Builder:
  """Random tensors under published names."""

  def __init__(self, seed):
    self.state = {}
    self.rng = np.random.default_rng(seed)

  def add(self, name, *shape):
    self.state[name] = self.rng.standard_normal(shape, 'float32')

  def affine(self, name, out, *rest):
    self.add(f'{name}.weight', out, *rest)
    self.add(f'{name}.bias', out)

  def batch_norm(self, name, width):
    self.affine(name, width)
    self.add(f'{name}.running_mean', width)
    self.add(f'{name}.running_var', width)
    self.state[f'{name}.num_batches_tracked'] = np.array(3)


def _densenet121(seed=0):
  builder = _Builder(seed)
  builder.add('features.conv0.weight', 64, 3, 7, 7)
  builder.batch_norm('features.norm0', 64)
  width = 64
  for b, layers in enumerate((6, 12, 24, 16), 1):
    for layer in range(1, layers + 1):
      name = f'features.denseblock{b}.denselayer{layer}'
      builder.batch_norm(f'{name}.norm1', width)
      builder.add(f'{name}.conv1.weight', 128, width, 1, 1)
      builder.batch_norm(f'{name}.norm2', 128)
      builder.add(f'{name}.conv2.weight', 32, 128, 3, 3)
      width += 32
    if b < 4:
      builder.batch_norm(f'features.transition{b}.norm', width)
      width //= 2
      name = f'features.transition{b}.conv.weight'
      builder.add(name, width, 2 * width, 1, 1)
  builder.batch_norm('features.norm5', width)
  builder.affine('classifier', 1000, width)
  return builder.state


def _swin(architecture, seed=0, window=7):
  width, depths, heads = SWINS[architecture]
  builder = _Builder(seed)
  builder.affine('patch_embed.proj', width, 3, 4, 4)
  builder.affine('patch_embed.norm', width)
  for s, depth in enumerate(depths):
    c = width * 2**s
    for b in range(depth):
      name = f'layers.{s}.blocks.{b}'
      builder.affine(f'{name}.norm1', c)
      table = f'{name}.attn.relative_position_bias_table'
      builder.add(table, (2 * window - 1) ** 2, heads[s])
      index = np.zeros((window**2, window**2), int)
      builder.state[f'{name}.attn.relative_position_index'] = index
      if b % 2 and s < 3:
        builder.state[f'{name}.attn_mask'] = np.zeros((4, 49, 49))
      builder.affine(f'{name}.attn.qkv', 3 * c, c)
      builder.affine(f'{name}.attn.proj', c, c)
      builder.affine(f'{name}.norm2', c)
      builder.affine(f'{name}.mlp.fc1', 4 * c, c)
      builder.affine(f'{name}.mlp.fc2', c, 4 * c)
    if s < 3:
      builder.affine(f'layers.{s}.downsample.norm', 4 * c)
      builder.add(f'layers.{s}.downsample.reduction.weight', 2 * c, 4 * c)
  builder.affine('norm', 8 * width)
  builder.affine('head', 1000, 8 * width)
  return builder.state


def _make(architecture, seed=0):
  if architecture == 'densenet121':
    return _densenet121(seed)
  return _swin(architecture, seed)


@pytest.fixture(scope='module')
def densenet():
  return _densenet121()


@pytest.fixture(scope='module')
def swin():
  return _swin('swin_tiny')


def _learned(state):
  """Without classifier, counters and tables that nothing learned."""
  return {
    name: value
    for name, value in state.items()
    if not name.startswith(('classifier.', 'head.'))
    and not name.endswith(('_tracked', '_index', 'attn_mask'))
  }


@pytest.mark.parametrize('architecture', ['densenet121', *SWINS])
def test_every_tensor_arrives_once(architecture):
  state = _make(architecture)
  leaves = jax.tree.leaves(pretrained.convert(state, architecture))
  used = _learned(state)
  # Random values: sorted by their sums, they are the same tensors.
  assert len(leaves) == len(used)
  ours = sorted(np.asarray(leaf).sum(dtype=np.float64) for leaf in leaves)
  theirs = sorted(v.sum(dtype=np.float64) for v in used.values())
  assert_allclose(ours, theirs, atol=1e-9)
  if architecture in PUBLISHED:
    count = sum(
      value.size
      for name, value in state.items()
      if not name.endswith(
        ('_tracked', '_index', 'attn_mask', 'running_mean', 'running_var')
      )
    )
    assert count == PUBLISHED[architecture]


def test_places_in_densenet(densenet):
  converted = pretrained.convert(densenet, 'densenet121')
  params, stats = converted['params'], converted['batch_stats']
  block = 'features.denseblock2.denselayer3'
  assert_array_equal(
    params['stage2']['layer2']['conv1']['kernel'],
    densenet[f'{block}.conv1.weight'][:, :, 0, 0].T,
  )
  assert_array_equal(
    params['stage2']['layer2']['conv2']['kernel'][2, 1],
    densenet[f'{block}.conv2.weight'][:, :, 2, 1].T,
  )
  assert_array_equal(
    stats['stage2']['layer2']['norm2']['mean'],
    densenet[f'{block}.norm2.running_mean'],
  )
  assert_array_equal(
    stats['stage4']['norm']['var'], densenet['features.norm5.running_var']
  )
  assert_array_equal(
    params['stage3']['transition']['norm']['bias'],
    densenet['features.transition3.norm.bias'],
  )


def test_places_in_swin(swin):
  converted = pretrained.convert(swin, 'swin_tiny')
  assert set(converted) == {'params'}
  params = converted['params']
  block = params['stage3']['block5']
  assert_array_equal(
    block['attention']['qkv']['kernel'],
    swin['layers.2.blocks.5.attn.qkv.weight'].T,
  )
  assert_array_equal(
    block['attention']['relative_position_bias_table'],
    swin['layers.2.blocks.5.attn.relative_position_bias_table'],
  )
  assert_array_equal(
    block['norm2']['scale'], swin['layers.2.blocks.5.norm2.weight']
  )
  assert_array_equal(
    params['stage1']['downsample']['reduction']['kernel'],
    swin['layers.0.downsample.reduction.weight'].T,
  )
  assert_array_equal(params['stage4']['norm']['bias'], swin['norm.bias'])


def _same(converted, expected):
  jax.tree.map(assert_array_equal, converted, expected)


def test_the_old_names_of_densenet(densenet):
  """As in densenet121-a639ec97.pth: norm.1 for norm1."""
  old = {
    re.sub(r'(denselayer\d+\.(?:norm|conv))([12])', r'\1.\2', name): value
    for name, value in densenet.items()
  }
  assert 'features.denseblock1.denselayer1.norm.1.weight' in old
  assert 'features.denseblock1.denselayer1.norm1.weight' not in old
  _same(
    pretrained.convert(old, 'densenet121'),
    pretrained.convert(densenet, 'densenet121'),
  )


def test_both_names_of_one_tensor(densenet):
  name = 'features.denseblock1.denselayer1.norm.1.weight'
  both = {**densenet, name: np.zeros(64)}
  with pytest.raises(ValueError, match=r'both features.*layer1\.norm1\.weight'):
    pretrained.convert(both, 'densenet121')


def test_the_layout_of_timm(swin):
  """A merging begins the next stage, and the classifier is head.fc."""
  timm = {}
  for name, value in swin.items():
    name = name.replace('head.', 'head.fc.')
    match = re.fullmatch(r'layers\.(\d)\.(downsample.*)', name)
    if match:
      name = f'layers.{int(match.group(1)) + 1}.{match.group(2)}'
    timm[name] = value
  assert 'layers.3.downsample.norm.weight' in timm
  assert 'layers.0.downsample.norm.weight' not in timm
  _same(
    pretrained.convert(timm, 'swin_tiny'), pretrained.convert(swin, 'swin_tiny')
  )


def test_other_windows_are_refused():
  state = _swin('swin_tiny', window=12)
  with pytest.raises(ValueError, match='12 problems') as error:
    pretrained.convert(state, 'swin_tiny')
  assert 'shape (529, 3), expected (169, 3)' in str(error.value)
  assert 'trained with windows of another size' in str(error.value)


@pytest.mark.parametrize('architecture', ['densenet121', 'swin_tiny'])
def test_one_error_lists_every_problem(architecture, densenet, swin):
  state = dict(densenet if architecture == 'densenet121' else swin)
  names = sorted(_learned(state))
  del state[names[0]], state[names[-1]]
  state[names[5]] = np.zeros((2, 3))
  state['extra'] = np.zeros(3)
  with pytest.raises(ValueError, match='4 problems') as error:
    pretrained.convert(state, architecture)
  for line in (
    f'{names[0]}: missing',
    f'{names[-1]}: missing',
    f'{names[5]}: shape (2, 3), expected',
    f'extra: not part of {architecture}',
  ):
    assert line in str(error.value)


def test_another_architecture(densenet):
  with pytest.raises(ValueError, match=r'do not fit swin_tiny'):
    pretrained.convert(densenet, 'swin_tiny')
  with pytest.raises(ValueError, match=r"'densenet99'; .*densenet121"):
    pretrained.convert(densenet, 'densenet99')


@pytest.mark.parametrize(
  ('architecture', 'split'),
  [('densenet121', 3), *(('swin_tiny', split) for split in range(6))],
)
def test_stages_fill_every_private_copy(architecture, split, densenet, swin):
  state = densenet if architecture == 'densenet121' else swin
  converted = pretrained.convert(state, architecture)
  streams = ('visible', 'infrared')
  network = EmbeddingNetwork(
    MultiStream(backbone_stages(architecture), split, streams), Head(5)
  )
  images = {
    s: jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32) for s in streams
  }
  shapes = jax.eval_shape(
    lambda key, images: network.init(key, images, train=False),
    jax.random.key(0),
    images,
  )
  filled = pretrained.fill_stages(shapes, converted)
  for i in range(5):
    names = [f'{s}_stage{i}' for s in streams] if i < split else [f'stage{i}']
    for name in names:
      for collection, stages in converted.items():
        _same(filled[collection]['backbone'][name], stages[f'stage{i}'])
  copies = 2 * split + 5 - split
  assert len(filled['params']['backbone']) == copies
  # The head is still what it was: shapes.
  leaves = jax.tree.leaves(filled['params']['head'])
  assert all(isinstance(v, jax.ShapeDtypeStruct) for v in leaves)
