"""XIV: its total term by term, X, and Eq. 2."""

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxreid import losses, train_state
from jaxreid.augment import color
from jaxreid.distance import sum_over_modalities
from jaxreid.methods import baseline
from jaxreid.methods.xiv import FIXED, STREAMS, make_x, xiv
from jaxreid.models import backbone_stages
from jaxreid.models.cost import multiply_adds
from jaxreid.models.resnet import BasicBlock, ResidualStage, Stem
from jaxreid.models.streams import (
  MultiStream,
  NetworkOutput,
  count_parameters,
)
from jaxreid.train_step import make_train_step

# Programs that run once are not worth optimising.
quick_jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)
KEY = jax.random.key(3)
CLASSES = 5
LABEL = (4, 4, 1, 1)


def _stages(dtype=jnp.float32):
  return (
    lambda name: Stem(4, dtype=dtype, name=name),
    lambda name: ResidualStage(BasicBlock, 8, 1, 2, dtype=dtype, name=name),
  )


def _batch(seed=0):
  rng = np.random.default_rng(seed)
  size = (len(LABEL), 32, 16, 3)
  return {
    'visible': jnp.asarray(rng.integers(0, 256, size), jnp.uint8),
    'infrared': jnp.asarray(rng.integers(0, 256, size), jnp.uint8),
    'label': jnp.asarray(LABEL, jnp.int32),
  }


def _method(**options):
  return xiv(CLASSES, _stages(), **{'padding': 2, 'erasing': 0.0, **options})


def _init(method):
  return quick_jit(method.init)(jax.random.key(1), _batch())


@pytest.fixture(scope='module')
def variables():
  """Of the default method, with a generator that makes colours."""
  made = _init(_method())
  params = jax.tree.map(lambda x: x, made['params'])
  params['backbone']['generator'] = {
    'one': {
      'kernel': jnp.array([[0.7], [-0.4], [0.5]]),
      'bias': jnp.array([0.6]),
    },
    'three': {
      'kernel': jnp.array([[1.1, 0.2, -0.8]]),
      'bias': jnp.array([0.1, -0.3, 0.5]),
    },
  }
  return {**made, 'params': params}


def _views(batch):
  return {
    'visible': color.normalize(batch['visible']),
    'infrared': color.normalize(batch['infrared']),
    'label': batch['label'],
  }


class Step:
  """A method's compiled step and the state before the first."""

  def __init__(self, method, variables):
    optimizers = {'backbone': optax.sgd(0.1)}
    given = method._replace(init=lambda key, batch: variables)
    self.before = train_state.create(given, optimizers, KEY, _batch())
    self._step = quick_jit(make_train_step(method, optimizers))

  def __call__(self, batch):
    return self._step(self.before, batch, KEY)


@pytest.fixture(scope='module')
def step(variables):
  with_teacher = {
    part: {**trees, 'teacher': {'w': jnp.arange(3.0)}}
    for part, trees in variables.items()
  }
  return Step(_method(), with_teacher)


def _changed(old, new):
  return [
    bool((np.asarray(a) != np.asarray(b)).any())
    for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
  ]


def test_a_step_changes_the_backbone_and_nothing_else(step):
  after, metrics = step(_batch())
  for part in ('params', 'model_state'):
    old, new = getattr(step.before, part), getattr(after, part)
    assert all(_changed(old['backbone'], new['backbone']))
    assert not any(_changed(old['teacher'], new['teacher']))
  assert 'generator' in after.params['backbone']
  names = {'loss', 'identity', 'triplet', 'cross', 'accuracy'}
  assert set(metrics) == names
  assert all(np.isfinite(float(value)) for value in metrics.values())


def test_gradients_are_finite_where_all_images_are_one(step):
  black = {name: jnp.zeros_like(x) for name, x in _batch().items()}
  after, metrics = step({**black, 'label': _batch()['label']})
  for leaf in jax.tree.leaves((after.params, metrics)):
    assert np.isfinite(np.asarray(leaf)).all()


# Loops over the outputs, in NumPy: nothing of jaxreid.losses.


def _output(streams=STREAMS):
  """What a network might give: no two modalities alike."""
  rng = np.random.default_rng(6)
  person = rng.normal(size=(CLASSES, 8))[list(LABEL)]
  f = {s: person + 0.7 * rng.normal(size=(4, 8)) for s in streams}
  z = {s: 2 * rng.normal(size=(4, CLASSES)) for s in streams}
  return NetworkOutput(*jax.tree.map(jnp.float32, ((), f, f, z)))


def _identity(logits, eps):
  values = []
  for z, y in zip(np.float64(logits), LABEL, strict=True):
    log_p = z - z.max() - np.log(np.exp(z - z.max()).sum())
    target = np.full(CLASSES, eps / CLASSES)
    target[y] += 1 - eps
    values.append(-(target * log_p).sum())
  return np.mean(values)


def _hard(anchors, others, margin):
  values = []
  for a, y in zip(np.float64(anchors), LABEL, strict=True):
    distance = [np.linalg.norm(a - b) for b in np.float64(others)]
    far = max(d for d, z in zip(distance, LABEL, strict=True) if z == y)
    near = min(d for d, z in zip(distance, LABEL, strict=True) if z != y)
    values.append(max(0.0, margin + far - near))
  return np.mean(values)


def _between_centers(a, b, margin):
  a, b = (np.float64(x).reshape(2, 2, -1).mean(1) for x in (a, b))
  values = []
  for k, other in ((0, 1), (1, 0)):
    near = min(np.linalg.norm(a[k] - b[other]), np.linalg.norm(a[other] - b[k]))
    values.append(max(0.0, margin + np.linalg.norm(a[k] - b[k]) - near))
  return np.mean(values)


def _terms(output, margin=0.3, cross_margin=0.5, eps=0.0, centers=False):
  """L_M and L_C."""
  f, logits = output.pooled, output.logits
  within = sum(_identity(logits[s], eps) + _hard(f[s], f[s], margin) for s in f)
  across = 0.0
  for s in f:
    if s == 'infrared':
      continue
    for a, b in (('infrared', s), (s, 'infrared')):
      if centers:
        across += _between_centers(f[a], f[b], cross_margin)
      else:
        across += _hard(f[a], f[b], cross_margin)
  return within, across


TWO = ('infrared', 'visible')
# options, streams, arguments of _terms, lambda
TOTALS = {
  '': ({}, STREAMS, {}, 0.1),
  'x': ({'gap_weight': 0.0}, STREAMS, {}, 0.0),
  'baseline': ({'x': 'none', 'gap_weight': 0.0}, TWO, {}, 0.0),
  'no_x': ({'x': 'none'}, TWO, {}, 0.1),
  'gray': ({'x': 'gray', 'gap_weight': 0.0}, STREAMS, {}, 0.0),
  'released': (
    {'gap': 'centers', 'label_smoothing': 0.1},
    STREAMS,
    {'eps': 0.1, 'centers': True},
    0.1,
  ),
  'changed': (
    {'gap_weight': 0.7, 'margin': 1.2, 'cross_margin': 2.2},
    STREAMS,
    {'margin': 1.2, 'cross_margin': 2.2},
    0.7,
  ),
}


def _total(monkeypatch, variables, output, options):
  """The loss of a method whose network gives `output`, and what it saw."""
  seen = []

  def forward(network, variables, images, streams):
    seen.append((set(images), tuple(streams)))
    return output, {}

  monkeypatch.setattr(baseline, 'forward', forward)
  loss = _method(**options).losses['backbone']
  total, aux = loss(variables, _views(_batch()), KEY, {})
  return total, aux, seen


@pytest.mark.parametrize('name', TOTALS)
def test_total_is_the_sum_of_its_terms(monkeypatch, variables, name):
  options, streams, arguments, weight = TOTALS[name]
  output = _output(streams)
  within, across = _terms(output, **arguments)
  assert min(within, across) > 0
  total, aux, seen = _total(monkeypatch, variables, output, options)
  assert_allclose(total, within + weight * across, rtol=1e-4)
  assert_allclose(
    aux.metrics['identity'] + aux.metrics['triplet'], within, rtol=1e-4
  )
  # One forward over all modalities, in the paper's order.
  assert seen == [(set(streams), streams)]


def test_total_from_the_public_losses(monkeypatch, variables):
  output = _output()
  total, _, _ = _total(monkeypatch, variables, output, {})
  arrays = [part[s] for part in (output.pooled, output.logits) for s in STREAMS]
  expected = losses.xiv_loss(*arrays, jnp.asarray(LABEL)).mean()
  assert_allclose(total, expected, rtol=1e-5)


def test_shared_statistics_are_those_of_all_three(variables):
  method = _method()
  batch = _views(_batch())
  _, aux = quick_jit(method.losses['backbone'])(variables, batch, KEY, {})
  pooled = np.concatenate([aux.embeddings[s] for s in STREAMS])
  assert pooled.shape == (12, 8)
  mean = aux.model_state['head']['neck']['mean']
  # Running statistics start at 0 and take a tenth of the batch's.
  assert_allclose(mean, 0.1 * pooled.mean(0), rtol=1e-4)


# X.


def test_the_generator_starts_gray_with_ten_parameters():
  params = _init(_method())['params']['backbone']
  assert count_parameters(params['generator']) == 10
  visible = color.normalize(_batch()['visible'])
  x = make_x('learnt', params, visible)
  mean = np.maximum(np.asarray(visible).mean(-1, keepdims=True), 0)
  assert_allclose(x, np.broadcast_to(mean / 3, x.shape), atol=1e-6)
  # From 2 on no pixel starts beyond the ReLU, black included.
  params = _init(_method(x_bias=2.0))['params']['backbone']
  black = color.normalize(jnp.zeros((1, 32, 16, 3), jnp.uint8))
  for images in (visible, black):
    x = make_x('learnt', params, images)
    mean = 2 + np.asarray(images).mean(-1, keepdims=True)
    assert mean.min() > 0
    assert_allclose(x, np.broadcast_to(mean / 3, x.shape), atol=1e-6)
  for kind in (*FIXED, 'none'):
    shapes = jax.eval_shape(_method(x=kind).init, KEY, _batch())
    assert 'generator' not in shapes['params']['backbone']


def test_the_generator_pixel_by_pixel(variables):
  params = variables['params']['backbone']
  visible = np.asarray(color.normalize(_batch()['visible']))[:1, :3, :2]
  x = make_x('learnt', params, jnp.asarray(visible))
  for row in range(3):
    for column in range(2):
      r, g, b = visible[0, row, column]
      one = max(0.0, 0.7 * r - 0.4 * g + 0.5 * b + 0.6)
      expected = [1.1 * one + 0.1, 0.2 * one - 0.3, -0.8 * one + 0.5]
      assert_allclose(x[0, row, column], expected, atol=1e-5)


def _one_pixel(kind, r, g, b):
  match kind:
    case 'mean':
      return (r + g + b) / 3
    case 'gray':
      return 0.299 * r + 0.587 * g + 0.114 * b
    case 'value':
      return 255 * colorsys.rgb_to_hsv(r / 255, g / 255, b / 255)[2]
    case 'luma':
      # ITU-R BT.601, as it is usually printed.
      return 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255
  raise ValueError(kind)


@pytest.mark.parametrize('kind', FIXED)
def test_fixed_maps_of_pixel_values(kind):
  pixels = np.asarray(_batch()['visible'])[:1, :3, :2]
  x = make_x(kind, {}, color.normalize(jnp.asarray(pixels)))
  raw = color.denormalize(x)
  for row in range(3):
    for column in range(2):
      expected = _one_pixel(kind, *pixels[0, row, column].tolist())
      assert_allclose(raw[0, row, column], [expected] * 3, atol=0.01)


def test_y_is_gray_with_less_contrast():
  images = jnp.asarray(_batch()['visible'], jnp.float32)
  gray, luma = (color.one_channel(images, k) for k in ('gray', 'luma'))
  assert_allclose(luma, 16 + 219 / 255 * np.asarray(gray), rtol=1e-5)
  with pytest.raises(ValueError, match="'luma', not 'sepia'"):
    color.one_channel(images, 'sepia')


def test_denormalize_undoes_normalize():
  images = _batch()['visible']
  assert_allclose(color.denormalize(color.normalize(images)), images, atol=1e-3)


# Embedding and Eq. 2.


@pytest.fixture(scope='module')
def embed():
  method = _method()
  return quick_jit(method.embed, static_argnums=2)


def test_visible_images_are_embedded_twice(variables, embed):
  images = _batch(7)['visible']
  visible = embed(variables, images, 'visible')
  infrared = embed(variables, images, 'infrared')
  gray = embed(variables, images, 'gray')
  assert visible.shape == gray.shape == (4, 2, 8)
  assert infrared.shape == (4, 1, 8)
  # One network: V is embedded as the same pixels in infrared are ...
  assert_allclose(visible[:, 0], infrared[:, 0], atol=1e-6)
  assert np.abs(visible[:, 0] - visible[:, 1]).max() > 0.01
  # ... and X as X is, whatever the modality it is given by.
  x = make_x('learnt', variables['params']['backbone'], color.normalize(images))
  network = baseline.make_network(CLASSES, _stages(), STREAMS, 0, 'average')
  output = network.apply(
    {
      'params': variables['params']['backbone'],
      'batch_stats': variables['model_state']['backbone'],
    },
    {'x': x},
    train=False,
  )
  feature = np.asarray(output.pooled['x'])
  feature = feature / np.linalg.norm(feature, axis=1, keepdims=True)
  assert_allclose(visible[:, 1], feature, atol=1e-5)
  assert_array_equal(
    gray, embed(variables, color.fixed_gray(images), 'visible')
  )
  with pytest.raises(ValueError, match='modality'):
    _method().embed(variables, images, 'x')


def test_without_x_there_is_one_embedding():
  method = _method(x='none', gap_weight=0.0)
  shapes = jax.eval_shape(method.init, KEY, _batch())
  images = jax.ShapeDtypeStruct((3, 32, 16, 3), jnp.uint8)
  for modality in ('visible', 'infrared', 'gray'):
    embed = functools.partial(method.embed, modality=modality)
    assert jax.eval_shape(embed, shapes, images).shape == (3, 1, 8)
  assert method.views is None


def test_equation_2_of_embedded_images(variables, embed):
  query = embed(variables, _batch(8)['infrared'], 'infrared')
  gallery = embed(variables, _batch(9)['visible'], 'visible')
  total = np.asarray(sum_over_modalities(query, gallery))
  for i, (f_i,) in enumerate(np.float64(query)):
    for j, (f_v, f_x) in enumerate(np.float64(gallery)):
      d_v = np.sqrt(((f_i - f_v) ** 2).sum())
      d_x = np.sqrt(((f_i - f_x) ** 2).sum())
      assert_allclose(total[i, j], d_v + d_x, atol=2e-3)


def test_concatenation_is_another_ranking():
  # A gallery image near in one modality and far in the other, against one
  # that is between in both: their order depends on how distances are joined.
  query = np.zeros((1, 1, 2), np.float32)
  gallery = np.array([[[0, 0], [4.5, 0]], [[3, 0], [2, 0]]], np.float32)
  by_sum = np.asarray(sum_over_modalities(query, gallery))[0].argsort()
  both = np.concatenate([query, query], axis=1).reshape(1, -1)
  joined = np.linalg.norm(gallery.reshape(2, -1) - both, axis=1).argsort()
  assert by_sum.tolist() == [0, 1]
  assert joined.tolist() == [1, 0]


# What is shown of a trained state.


def test_views_are_the_images_that_the_network_sees(variables):
  images = _batch(4)['visible']
  views = _method().views
  assert set(views(variables, images, 'visible')) == {'X'}
  assert views(variables, images, 'infrared') == {}
  seen = views(variables, images, 'visible')['X']
  x = make_x('learnt', variables['params']['backbone'], color.normalize(images))
  assert_allclose(color.normalize(seen), x, atol=1e-5)
  gray = _method(x='gray').views(variables, images, 'visible')['X']
  expected = np.asarray(images, np.float64) @ [0.299, 0.587, 0.114]
  assert_allclose(gray[..., 1], expected, atol=0.01)


def _evaluate(sentence, r, g, b):
  """Reads the printed formula as arithmetic."""
  left, right = sentence.removeprefix('X = ').split(' x ')
  inner = left.removeprefix('relu(').removesuffix(')')
  for name in 'RGB':
    inner = inner.replace(f' {name}', f' * {name}')
  one = max(0.0, eval(inner, {'R': r, 'G': g, 'B': b}))
  factors, offsets = (eval(part) for part in right.split(' + '))
  return [f * one + o for f, o in zip(factors, offsets, strict=True)]


def test_the_printed_formula_is_what_x_is(variables):
  method = _method()
  first, second = method.facts(variables, (32, 16))
  sentence = first.split(', R, G, B and X')[0]
  images = _batch(4)['visible']
  made = method.views(variables, images, 'visible')['X']
  for place in ((0, 3, 4), (1, 9, 2), (3, 30, 15)):
    rgb = np.asarray(images[place]) / 255
    expected = _evaluate(sentence, *rgb.tolist())
    assert_allclose(np.asarray(made[place]) / 255, expected, atol=0.03)
  assert second.startswith('multiply-adds for an image of 32x16: g 0.000003 G')


def test_facts_without_a_generator(variables):
  assert _method(x='luma').facts(variables, (32, 16))[0] == 'X is fixed: luma'
  (fact,) = _method(x='none').facts(variables, (32, 16))
  assert fact.startswith('multiply-adds')
  assert 'g ' not in fact.split(':')[1]


@pytest.mark.parametrize(
  ('name', 'stride', 'size', 'expected'),
  [
    # "For a 256x128 input image ... the following feature extractor (2.7G)".
    ('resnet50', 2, (256, 128), 2.7),
    ('resnet50', 1, (256, 128), 4.1),
    # As published for ImageNet's size.
    ('densenet121', 2, (224, 224), 2.8),
  ],
)
def test_multiply_adds_at_the_papers_size(name, stride, size, expected):
  stages = backbone_stages(name, last_stride=stride)
  network = MultiStream(tuple(stages), 0, ('visible',))
  images = {'visible': jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)}
  shapes = jax.eval_shape(
    functools.partial(network.init, train=False), KEY, images
  )
  count = multiply_adds(
    functools.partial(network.apply, train=False), shapes, images
  )
  assert_allclose(count / 1e9, expected, atol=0.06)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'x': 'sepia'}, 'method.x .*sepia'),
    ({'gap': 'mean'}, 'method.gap .*mean'),
    ({'pooling': 'max'}, 'method.pooling .*max'),
    ({'test_feature': 'logits'}, 'method.test_feature .*logits'),
  ],
)
def test_options_that_do_not_exist_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    _method(**options)
