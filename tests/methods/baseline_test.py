"""Identity loss plus triplet: whom a step moves, what it costs, how it embeds.

A network of a stem and two residual stages on images of 32 x 16.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxreid import train_state
from jaxreid.augment import color
from jaxreid.methods.baseline import (
  baseline,
  forward,
  make_embed,
  make_network,
)
from jaxreid.models.resnet import BasicBlock, ResidualStage, Stem
from jaxreid.train_step import make_train_step

# Programs that run once are not worth optimising.
quick_jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)
KEY = jax.random.key(3)
CLASSES = 5
TWO = ('visible', 'infrared')


def _stages():
  return (
    lambda name: Stem(4, name=name),
    lambda name: ResidualStage(BasicBlock, 4, 1, 1, name=name),
    lambda name: ResidualStage(BasicBlock, 8, 1, 2, name=name),
  )


def _batch(seed=0, identities=2, images=2):
  rng = np.random.default_rng(seed)
  size = (identities * images, 32, 16, 3)
  label = rng.permutation(CLASSES)[:identities].repeat(images)
  return {
    'visible': jnp.asarray(rng.integers(0, 256, size), jnp.uint8),
    'infrared': jnp.asarray(rng.integers(0, 256, size), jnp.uint8),
    'label': jnp.asarray(label, jnp.int32),
  }


def _with_teacher(method):
  """The method with a frozen player beside its own."""

  def init(key, batch):
    variables = method.init(key, batch)
    frozen = {'w': jnp.arange(3.0)}
    return {
      'params': {**variables['params'], 'teacher': frozen},
      'model_state': {**variables['model_state'], 'teacher': frozen},
    }

  return method._replace(init=init)


class Trained:
  """A method, its first state, and its compiled step."""

  def __init__(self, stages, **options):
    self.method = _with_teacher(baseline(CLASSES, stages, **options))
    optimizers = {'backbone': optax.sgd(0.1)}
    create = functools.partial(train_state.create, self.method, optimizers)
    self.state = quick_jit(create)(jax.random.key(1), _batch())
    self._step = quick_jit(make_train_step(self.method, optimizers))

  def step(self, batch):
    return self._step(self.state, batch, KEY)


@pytest.fixture(scope='module')
def two():
  return Trained(_stages(), padding=2)


def _changed(old, new):
  return [
    bool((np.asarray(a) != np.asarray(b)).any())
    for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
  ]


def test_a_step_changes_the_backbone_and_nothing_else(two):
  state, metrics = two.step(_batch())
  for part in ('params', 'model_state'):
    old, new = getattr(two.state, part), getattr(state, part)
    assert all(_changed(old['backbone'], new['backbone']))
    assert not any(_changed(old['teacher'], new['teacher']))
  assert set(state.opt_state) == {'backbone'}
  assert set(metrics) == {'loss', 'identity', 'triplet', 'accuracy'}
  assert all(np.isfinite(float(value)) for value in metrics.values())


def test_loss_is_identity_plus_weighted_triplet(two):
  batch = _batch(1)
  _, metrics = two.step(batch)
  pooled, logits, labels = _outputs_of_step(two, batch)
  identity = np.mean(
    [-np.log(_softmax(x)[y]) for x, y in zip(logits, labels, strict=True)]
  )
  hits = [x.argmax() == y for x, y in zip(logits, labels, strict=True)]
  assert_allclose(metrics['identity'], identity, rtol=1e-4)
  assert_allclose(metrics['triplet'], _agw_triplet(pooled, labels), rtol=1e-3)
  assert_allclose(metrics['accuracy'], np.mean(hits), rtol=1e-6)
  assert_allclose(
    metrics['loss'], metrics['identity'] + metrics['triplet'], rtol=1e-6
  )


def test_batch_hard_triplet_and_smoothing(two):
  batch = _batch(1)
  method = baseline(
    CLASSES,
    _stages(),
    padding=2,
    triplet='batch_hard',
    margin=4.0,
    label_smoothing=0.2,
  )
  total, aux = quick_jit(
    lambda variables: method.losses['backbone'](
      variables, _view_of_step(method, batch), KEY, {}
    )
  )(two.state.variables)
  pooled, logits, labels = _outputs_of_step(two, batch)
  log_p = [np.log(_softmax(x)) for x in logits]
  identity = -np.mean(
    [0.8 * x[y] + 0.2 * x.mean() for x, y in zip(log_p, labels, strict=True)]
  )
  hard = _batch_hard(pooled, labels, 4.0)
  assert hard > 0
  assert_allclose(aux.metrics['triplet'], hard, rtol=1e-3)
  assert_allclose(total, identity + hard, rtol=1e-3)
  assert set(aux.embeddings) == set(TWO)


def _view_of_step(method, batch):
  """What the first step of a run with KEY trains on."""
  key = jax.random.fold_in(KEY, 0)
  augment_key, _ = jax.random.split(key, 2)
  return method.augment(augment_key, batch)


def _outputs_of_step(trained, batch):
  """Pooled features, logits and labels of all images, as float64 lists."""
  network = make_network(CLASSES, _stages(), TWO, 1, 'gem')

  @quick_jit
  def outputs(variables, batch):
    views = _view_of_step(trained.method, batch)
    return forward(network, variables, views, TWO)[0]

  output = outputs(trained.state.variables, batch)
  both = [
    np.concatenate([np.asarray(of[m], np.float64) for m in TWO])
    for of in (output.pooled, output.logits)
  ]
  return *both, 2 * np.asarray(batch['label']).tolist()


def _softmax(x):
  e = np.exp(x - x.max())
  return e / e.sum()


def _agw_triplet(pooled, labels):
  values = []
  for i in range(len(pooled)):
    distance = [float(np.linalg.norm(pooled[i] - other)) for other in pooled]
    near = np.array(
      [d for d, y in zip(distance, labels, strict=True) if y == labels[i]]
    )
    far = np.array(
      [d for d, y in zip(distance, labels, strict=True) if y != labels[i]]
    )
    gap = (_softmax(near) * near).sum() - (_softmax(-far) * far).sum()
    values.append(np.log1p(np.exp(gap)))
  return np.mean(values)


def _batch_hard(pooled, labels, margin):
  values = []
  for i in range(len(pooled)):
    distance = [float(np.linalg.norm(pooled[i] - other)) for other in pooled]
    near = max(
      d for d, y in zip(distance, labels, strict=True) if y == labels[i]
    )
    far = min(
      d for d, y in zip(distance, labels, strict=True) if y != labels[i]
    )
    values.append(max(0.0, margin + near - far))
  return np.mean(values)


def test_one_modality_ignores_the_other():
  batch, other = _batch(0), _batch(9)
  for name, source, unseen in (
    ('visible', 'visible', 'infrared'),
    ('infrared', 'infrared', 'visible'),
  ):
    trained = Trained(_stages()[:2], modalities=(name,), padding=2)
    # One stream has no private stages.
    assert set(trained.state.params['backbone']['backbone']) == {
      'stage0',
      'stage1',
    }
    state, _ = trained.step(batch)
    same, _ = trained.step({**batch, unseen: other[unseen]})
    moved, _ = trained.step({**batch, source: other[source]})
    jax.tree.map(assert_array_equal, state.params, same.params)
    changed = _changed(
      state.params['backbone']['backbone'], moved.params['backbone']['backbone']
    )
    assert all(changed), name


def test_views_are_drawn_per_modality_and_gray_is_gray():
  batch = _batch()
  batch['infrared'] = batch['visible']
  method = baseline(CLASSES, _stages(), padding=2)
  views = quick_jit(method.augment)(KEY, batch)
  assert set(views) == {'visible', 'infrared', 'label'}
  assert (views['visible'] != views['infrared']).any()

  method = baseline(CLASSES, _stages(), modalities=('gray',), padding=0)
  views = quick_jit(method.augment)(KEY, batch)
  assert set(views) == {'gray', 'label'}
  gray = np.asarray(color.normalize(color.fixed_gray(batch['visible'])))
  for seen, image in zip(np.asarray(views['gray']), gray, strict=True):
    matches = [np.allclose(seen, x) for x in (image, image[:, ::-1])]
    assert any(matches)


def test_embeddings_have_length_one_and_pass_their_own_stream(two):
  images = _batch(4)['visible']

  @quick_jit
  def embed_all(variables, images):
    gray = color.fixed_gray(images)
    embed = two.method.embed
    return {
      'visible': embed(variables, images, 'visible'),
      'infrared': embed(variables, images, 'infrared'),
      'gray': embed(variables, images, 'gray'),
      'visible of gray': embed(variables, gray, 'visible'),
    }

  features = embed_all(two.state.variables, images)
  for name, feature in features.items():
    assert feature.shape == (4, 1, 8)
    length = np.linalg.norm(feature, axis=-1)
    assert_allclose(length, np.ones((4, 1)), rtol=1e-5, err_msg=name)
  assert (features['visible'] != features['infrared']).any()
  assert_allclose(features['gray'], features['visible of gray'], rtol=1e-6)

  stem = two.state.params['backbone']['backbone']['infrared_stage0']
  params = jax.tree.map(lambda x: x, two.state.params)
  params['backbone']['backbone']['visible_stage0'] = stem
  moved = embed_all({**two.state.variables, 'params': params}, images)
  assert_array_equal(moved['infrared'], features['infrared'])
  assert (moved['visible'] != features['visible']).any()


def test_a_single_stream_takes_every_image():
  method = baseline(CLASSES, _stages(), modalities=('infrared',), padding=0)
  images = _batch(4)['visible']
  variables = quick_jit(method.init)(KEY, _batch())

  @quick_jit
  def embed_all(variables):
    return [
      method.embed(variables, images, name)
      for name in ('visible', 'infrared', 'gray')
    ]

  visible, infrared, gray = embed_all(variables)
  assert_array_equal(visible, infrared)
  assert (gray != visible).any()


def test_a_stream_of_gray_images_embeds_them():
  streams = ('gray', 'infrared')
  method = baseline(CLASSES, _stages(), modalities=streams, padding=0)
  images = _batch(4)['visible']
  variables = quick_jit(method.init)(KEY, _batch())
  features = quick_jit(method.embed, static_argnums=2)(
    variables, images, 'gray'
  )
  network = make_network(CLASSES, _stages(), streams, 1, 'gem')
  pixels = color.normalize(color.fixed_gray(images))
  output = quick_jit(functools.partial(network.apply, train=False))(
    {
      'params': variables['params']['backbone'],
      'batch_stats': variables['model_state']['backbone'],
    },
    {'gray': pixels},
  )
  expected = output.neck['gray']
  expected /= jnp.linalg.norm(expected, axis=-1, keepdims=True)
  assert_allclose(features[:, 0], expected, rtol=1e-5)


@pytest.mark.parametrize('test_feature', ['neck', 'pooled'])
def test_the_test_feature_is_the_one_asked_for(two, test_feature):
  network = make_network(CLASSES, _stages(), TWO, 1, 'gem')
  embed = make_embed(network, TWO, test_feature)
  images = _batch(4)['visible']
  # Statistics away from 0 and 1, so that the neck does something.
  model_state = jax.tree.map(lambda x: x + 0.25, two.state.model_state)
  variables = {**two.state.variables, 'model_state': model_state}

  @quick_jit
  def both(variables):
    output = network.apply(
      {
        'params': variables['params']['backbone'],
        'batch_stats': variables['model_state']['backbone'],
      },
      {'infrared': color.normalize(images)},
      train=False,
    )
    feature = getattr(output, test_feature)['infrared']
    return embed(variables, images, 'infrared'), feature

  feature, expected = (np.asarray(x) for x in both(variables))
  for row, raw in zip(feature[:, 0], expected, strict=True):
    assert_allclose(row, raw / np.sqrt((raw**2).sum()), rtol=1e-4, atol=1e-6)


def test_an_unknown_modality_is_refused(two):
  with pytest.raises(ValueError, match="'gray', not 'intermediate'"):
    two.method.embed(two.state.variables, _batch()['visible'], 'intermediate')


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'modalities': ('visible', 'thermal')}, r'method.modalities .*thermal'),
    ({'modalities': ()}, 'method.modalities'),
    ({'modalities': ('visible', 'gray')}, 'method.modalities .*infrared'),
    ({'triplet': 'semi_hard'}, 'method.triplet .*semi_hard'),
    ({'test_feature': 'logits'}, "method.test_feature .*'logits'"),
    ({'pooling': 'max'}, "method.pooling .*'max'"),
    ({'split': 4}, 'method.split .*4'),
    ({'split': -1}, 'method.split .*-1'),
  ],
)
def test_options_that_do_not_exist_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    baseline(CLASSES, _stages(), **options)
