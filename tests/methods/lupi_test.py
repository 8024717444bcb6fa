"""LUPI: its total term by term, its views, and what is used at test."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxreid import losses, train_state
from jaxreid.augment import color
from jaxreid.methods import baseline
from jaxreid.methods.baseline import forward, make_network
from jaxreid.methods.lupi import STREAMS, lupi
from jaxreid.models.resnet import BasicBlock, ResidualStage, Stem
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
    lambda name: ResidualStage(BasicBlock, 4, 1, 1, dtype=dtype, name=name),
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


@pytest.fixture(scope='module')
def variables():
  method = lupi(CLASSES, _stages(), padding=2, erasing=0.0)
  made = quick_jit(method.init)(jax.random.key(1), _batch())
  # A classifier that tells identities apart, so that KL is not near zero.
  params = jax.tree.map(lambda x: x, made['params'])
  head = params['backbone']['head']['classifier']
  head['kernel'] = 300 * head['kernel']
  return {**made, 'params': params}


@pytest.fixture(scope='module')
def views():
  """Normalised images of the three streams, without augmentation."""
  batch = _batch()
  intermediate = color.random_gray(jax.random.key(8), batch['visible'])
  return {
    'visible': color.normalize(batch['visible']),
    'infrared': color.normalize(batch['infrared']),
    'intermediate': color.normalize(intermediate),
    'label': batch['label'],
  }


@pytest.fixture(scope='module')
def output(variables, views):
  """The network's output in training, in float64."""
  network = make_network(CLASSES, _stages(), STREAMS, 2, 'gem')
  made = quick_jit(lambda v, x: forward(network, v, x, STREAMS)[0])(
    variables, views
  )
  return jax.tree.map(lambda x: np.asarray(x, np.float64), made)


def _changed(old, new):
  return [
    bool((np.asarray(a) != np.asarray(b)).any())
    for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
  ]


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
  return Step(lupi(CLASSES, _stages(), padding=2, erasing=0.0), with_teacher)


def test_a_step_changes_the_backbone_and_nothing_else(step):
  after, metrics = step(_batch())
  for part in ('params', 'model_state'):
    old, new = getattr(step.before, part), getattr(after, part)
    assert all(_changed(old['backbone'], new['backbone']))
    assert not any(_changed(old['teacher'], new['teacher']))
  names = {'loss', 'identity', 'triplet', 'color_free', 'accuracy'}
  assert set(metrics) == names
  assert all(np.isfinite(float(value)) for value in metrics.values())


def test_gradients_are_finite_where_all_images_are_one(step):
  black = {name: jnp.zeros_like(x) for name, x in _batch().items()}
  after, metrics = step({**black, 'label': _batch()['label']})
  for leaf in jax.tree.leaves((after.params, metrics)):
    assert np.isfinite(np.asarray(leaf)).all()


# Loops over the outputs, in NumPy: nothing of jaxreid.losses.


def _identity(output, labels):
  values = []
  for logits in output.logits.values():
    for x, y in zip(logits, labels, strict=True):
      values.append(np.log(np.exp(x - x.max()).sum()) + x.max() - x[y])
  return np.mean(values)


def _triplet(output, labels, margin):
  v, t, z = (output.pooled[s] for s in STREAMS)
  cycle = ((v, t, z), (t, z, v), (z, v, t))
  return sum(_directed(*sets, labels, margin) for sets in cycle)


def _directed(anchor, positive, negative, labels, margin):
  values = []
  for row, label in zip(anchor, labels, strict=True):
    to_positive = [np.linalg.norm(row - x) for x in positive]
    to_negative = [np.linalg.norm(row - x) for x in negative]
    near = max(
      d for d, y in zip(to_positive, labels, strict=True) if y == label
    )
    far = min(d for d, y in zip(to_negative, labels, strict=True) if y != label)
    values.append(max(0.0, margin + near - far))
  return np.mean(values)


def _colored_distances(output):
  distances = []
  for i in range(len(LABEL)):
    v, z = (output.pooled[s][i] for s in ('visible', 'intermediate'))
    unit = v / np.linalg.norm(v) - z / np.linalg.norm(z)
    distances.append(float(np.linalg.norm(unit)))
  return distances


def _color_free(output, kl_weight, threshold=0.5, order='z_v'):
  values = []
  for i, distance in enumerate(_colored_distances(output)):
    a, b = (output.logits[s][i] for s in ('visible', 'intermediate'))
    p_v, p_z = (np.exp(x - x.max()) for x in (a, b))
    p, q = p_z / p_z.sum(), p_v / p_v.sum()
    if order == 'v_z':
      p, q = q, p
    divergence = (p * np.log(p / q)).sum()
    values.append(distance if distance > threshold else kl_weight * divergence)
  return np.mean(values)


def _mse(output):
  v, z = (output.pooled[s] for s in ('visible', 'intermediate'))
  return ((v - z) ** 2).mean()


TOTALS = {
  '': ({}, lambda i, t, c, m: i + t + 10 * c),
  'id_only': (
    {'triplet_weight': 0.0, 'color_free_weight': 0.0},
    lambda i, t, c, m: i,
  ),
  'triplet_only': ({'color_free_weight': 0.0}, lambda i, t, c, m: i + t),
  'color_only': ({'triplet_weight': 0.0}, lambda i, t, c, m: i + 10 * c),
  'released_losses': (
    {'triplet_reduction': 'mean', 'color_free': 'mse'},
    lambda i, t, c, m: i + t / 3 + 10 * m,
  ),
  'weights': (
    {'triplet_weight': 0.5, 'color_free_weight': 3.0},
    lambda i, t, c, m: i + t / 2 + 3 * c,
  ),
}


def _total(monkeypatch, output, options):
  """The loss of a method whose network gives `output`."""
  given = jax.tree.map(jnp.float32, output)
  monkeypatch.setattr(baseline, 'forward', lambda *arguments: (given, {}))
  loss = lupi(CLASSES, _stages(), **options).losses['backbone']
  return loss({}, {'label': jnp.asarray(LABEL)}, KEY, {})[0]


@pytest.mark.parametrize('name', TOTALS)
def test_total_is_the_sum_of_its_terms(monkeypatch, output, name):
  options, expected = TOTALS[name]
  terms = (
    _identity(output, LABEL),
    _triplet(output, LABEL, 0.3),
    _color_free(output, 0.5),
    _mse(output),
  )
  assert min(terms) > 0
  total = _total(monkeypatch, output, options)
  assert_allclose(total, expected(*terms), rtol=2e-4)


@pytest.mark.parametrize('order', ['z_v', 'v_z'])
def test_the_options_of_the_color_free_loss(monkeypatch, output, order):
  distances = sorted(_colored_distances(output))
  threshold = (distances[1] + distances[2]) / 2  # two rows on either side
  options = {
    'triplet_weight': 0.0,
    'color_free_weight': 1.0,
    'color_free_threshold': threshold,
    'kl_weight': 0.7,
    'kl_order': order,
  }
  expected = _identity(output, LABEL) + _color_free(
    output, 0.7, threshold, order
  )
  total = _total(monkeypatch, output, options)
  assert_allclose(total, expected, rtol=2e-4)


@pytest.mark.parametrize('reduction', ['sum', 'mean'])
def test_without_an_intermediate_two_streams_are_left(
  monkeypatch, output, reduction
):
  two = STREAMS[:2]
  output = output._replace(
    pooled={s: output.pooled[s] for s in two},
    logits={s: output.logits[s] for s in two},
  )
  options = {'intermediate': 'none', 'triplet_reduction': reduction}
  total = _total(monkeypatch, output, options)
  v, t = (output.pooled[s] for s in two)
  hard = sum(_directed(a, b, b, LABEL, 0.3) for a, b in ((v, t), (t, v)))
  hard = hard if reduction == 'sum' else hard / 2
  assert_allclose(total, _identity(output, LABEL) + hard, rtol=2e-4)

  method = lupi(CLASSES, _stages(), intermediate='none', padding=2)
  assert 'intermediate' not in jax.eval_shape(method.augment, KEY, _batch())
  shapes = jax.eval_shape(method.init, KEY, _batch())
  assert {
    name.split('_')[0] for name in shapes['params']['backbone']['backbone']
  } == {'visible', 'infrared', 'stage2'}


def test_total_from_the_public_losses(monkeypatch, output):
  f_v, f_t, f_z = (jnp.float32(output.pooled[s]) for s in STREAMS)
  l_v, l_t, l_z = (jnp.float32(output.logits[s]) for s in STREAMS)
  labels = jnp.asarray(LABEL)
  l_id = sum(losses.identity_loss(x, labels).mean() for x in (l_v, l_t, l_z))
  l_tri = losses.cyclic_triplet(f_v, f_t, f_z, labels, 0.3).mean()
  l_c = losses.color_free(f_v, f_z, l_v, l_z, 0.5, 0.5).mean()
  total = _total(monkeypatch, output, {})
  assert_allclose(total, l_id / 3 + l_tri + 10 * l_c, rtol=1e-4)


def test_a_weight_of_zero_leaves_no_gradient(variables, views):
  method = lupi(CLASSES, _stages(), triplet_weight=0.0, color_free_weight=0.0)
  network = make_network(CLASSES, _stages(), STREAMS, 2, 'gem')

  def alone(variables):
    output, _ = forward(network, variables, views, STREAMS)
    log_p = [jax.nn.log_softmax(output.logits[s]) for s in STREAMS]
    rows = jnp.arange(len(LABEL))
    return -sum(x[rows, views['label']].mean() for x in log_p) / 3

  @quick_jit
  def gradients(params):
    def of(loss):
      return jax.grad(lambda p: loss({**variables, 'params': p}))(params)

    return of(lambda v: method.losses['backbone'](v, views, KEY, {})[0]), of(
      alone
    )

  left, right = gradients(variables['params'])
  for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
    assert_allclose(a, b, rtol=1e-3, atol=1e-5)


# Views. Where R = G = B any mixture is the image itself, so that Z can be
# compared with V pixel by pixel.


def _gray_batch():
  batch = _batch(5)
  for name in ('visible', 'infrared'):
    gray = batch[name][..., :1]
    batch[name] = jnp.broadcast_to(gray, batch[name].shape)
  return batch


def _augment(batch, **options):
  method = lupi(CLASSES, _stages(), padding=3, **options)
  return quick_jit(method.augment)(KEY, batch)


def test_shared_views_have_the_same_crop_flip_and_rectangle():
  batch = _gray_batch()
  views = _augment(batch, independent_views=False, erasing=0.5)
  assert_array_equal(views['intermediate'], views['visible'])
  raw = color.normalize(batch['visible'])
  differing = [
    bool((a != b).any()) for a, b in zip(views['visible'], raw, strict=True)
  ]
  assert any(differing)
  # Infrared has draws of its own even where its pixels are the same.
  views = _augment(
    {**batch, 'infrared': batch['visible']}, independent_views=False
  )
  assert (views['infrared'] != views['visible']).any()


def test_independent_views_have_their_own():
  views = _augment(_gray_batch(), erasing=0.0)
  same = [
    bool((a == b).all())
    for a, b in zip(views['intermediate'], views['visible'], strict=True)
  ]
  assert not all(same)


@pytest.mark.parametrize('intermediate', ['random_gray', 'gray'])
def test_the_intermediate_image_is_a_mixture(intermediate):
  batch = _batch(6)
  method = lupi(
    CLASSES,
    _stages(),
    intermediate=intermediate,
    independent_views=False,
    padding=0,
    erasing=0.0,
  )
  views = quick_jit(method.augment)(KEY, batch)
  scale = 255 * np.array(color.IMAGENET_STD)
  offset = 255 * np.array(color.IMAGENET_MEAN)
  raw = {
    name: np.asarray(x) * scale + offset
    for name, x in views.items()
    if name != 'label'
  }
  z, v = raw['intermediate'], raw['visible']
  assert_allclose(z[..., 0], z[..., 1], atol=0.01)
  assert_allclose(z[..., 0], z[..., 2], atol=0.01)
  weights = [
    np.linalg.lstsq(a.reshape(-1, 3), b[..., 0].ravel() + 0.5, rcond=None)[0]
    for a, b in zip(v, z, strict=True)
  ]
  for w in weights:
    assert_allclose(w.sum(), 1, atol=0.01)
    assert w.min() > -0.01
  luminance = np.array([0.299, 0.587, 0.114])
  gaps = [abs(w - luminance).max() for w in weights]
  assert (max(gaps) < 0.01) == (intermediate == 'gray')


# Embedding.


def test_the_intermediate_stages_are_not_used_at_test(variables):
  method = lupi(CLASSES, _stages())
  images = _batch(7)['visible']

  @quick_jit
  def embed_all(variables):
    return {
      name: method.embed(variables, images, name)
      for name in ('visible', 'infrared', 'gray')
    }

  def perturbed(tree):
    return {
      name: jax.tree.map(lambda x: x + 0.5, stage)
      if name.startswith('intermediate')
      else stage
      for name, stage in tree.items()
    }

  def other(part):
    player = variables[part]['backbone']
    return {'backbone': {**player, 'backbone': perturbed(player['backbone'])}}

  before = embed_all(variables)
  after = embed_all({part: other(part) for part in variables})
  for name in ('visible', 'infrared'):
    assert_array_equal(before[name], after[name])
  assert (before['gray'] != after['gray']).any()
  for feature in before.values():
    assert feature.shape == (4, 1, 8)
    assert_allclose(jnp.linalg.norm(feature, axis=-1), 1, rtol=1e-5)
  with pytest.raises(ValueError, match='modality'):
    method.embed(variables, images, 'intermediate')


def test_bfloat16_computes_and_keeps_float32_parameters():
  stages = _stages(jnp.bfloat16)[:2]
  method = lupi(CLASSES, stages, split=1, padding=2, erasing=0.0)
  variables = quick_jit(method.init)(KEY, _batch())
  step = Step(method, variables)
  after, metrics = step(_batch())
  before = step.before
  assert {str(x.dtype) for x in jax.tree.leaves(after.params)} == {'float32'}
  for old, new in zip(
    jax.tree.leaves(before), jax.tree.leaves(after), strict=True
  ):
    assert (old.dtype, old.shape) == (new.dtype, new.shape)
  assert all(_changed(before.params, after.params))
  assert all(np.isfinite(float(value)) for value in metrics.values())
  feature = quick_jit(method.embed, static_argnums=2)(
    after.variables, _batch()['infrared'], 'infrared'
  )
  assert feature.dtype == jnp.float32
  assert_allclose(jnp.linalg.norm(feature, axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'intermediate': 'sepia'}, 'method.intermediate .*sepia'),
    ({'color_free': 'l1'}, 'method.color_free .*l1'),
    ({'kl_order': 'v_v'}, 'method.kl_order .*v_v'),
    ({'triplet_reduction': 'max'}, 'method.triplet_reduction .*max'),
    ({'test_feature': 'logits'}, 'method.test_feature .*logits'),
    ({'pooling': 'max'}, 'method.pooling .*max'),
    ({'split': 9}, 'method.split .*9'),
  ],
)
def test_options_that_do_not_exist_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    lupi(CLASSES, _stages(), **options)
