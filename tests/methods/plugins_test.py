"""MAG and the multi-mask triplet, plugged into methods that know neither."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxreid.augment import color
from jaxreid.method import Aux, Method
from jaxreid.methods import baseline as baseline_module
from jaxreid.methods.baseline import baseline
from jaxreid.methods.lupi import lupi
from jaxreid.methods.plugins import (
  with_embedding_loss,
  with_exchange,
  with_multi_mask,
)
from jaxreid.methods.xiv import xiv
from jaxreid.models.resnet import BasicBlock, ResidualStage, Stem
from jaxreid.models.streams import NetworkOutput

# Programs that run once are not worth optimising.
quick_jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)
KEY = jax.random.key(3)
CLASSES = 5
LABEL = (4, 4, 1, 1)
METHODS = {
  'baseline': (functools.partial(baseline, split=1), ('visible', 'infrared')),
  'lupi': (
    functools.partial(lupi, split=1, erasing=0.0),
    ('visible', 'infrared', 'intermediate'),
  ),
  'xiv': (functools.partial(xiv, erasing=0.0), ('infrared', 'x', 'visible')),
}


def _stages():
  return (
    lambda name: Stem(4, name=name),
    lambda name: ResidualStage(BasicBlock, 8, 1, 2, name=name),
  )


def _method(name, **options):
  make, _ = METHODS[name]
  return make(CLASSES, _stages(), **{'padding': 0, **options})


def _plain_batch(count=40):
  """Visible images are light, infrared ones dark, all without an edge."""
  size = (count, 32, 16, 3)
  return {
    'visible': jnp.full(size, 200, jnp.uint8),
    'infrared': jnp.full(size, 50, jnp.uint8),
    'label': jnp.zeros(count, jnp.int32),
  }


def _pixels(view):
  """A view's first channel on the scale of raw pixels."""
  pixels = np.asarray(color.denormalize(view))
  return np.round(pixels[..., 0]).astype(int)


# MAG.


@pytest.mark.parametrize('name', METHODS)
def test_pairs_exchange_a_rectangle(name):
  batch = _plain_batch()
  augment = with_exchange(_method(name), probability=0.5).augment
  views = quick_jit(augment)(KEY, batch)
  assert_array_equal(views['label'], batch['label'])
  visible, infrared = (_pixels(views[m]) for m in ('visible', 'infrared'))
  assert set(np.unique(visible)) == set(np.unique(infrared)) == {50, 200}
  exchanged = visible == 50
  # Flips are drawn per modality: only the sizes agree.
  assert_array_equal(exchanged.sum((1, 2)), (infrared == 200).sum((1, 2)))
  assert 8 < exchanged.any((1, 2)).sum() < 32


def test_raw_pixels_are_exchanged_before_any_other_augmentation():
  # Black comes in from the border, and nowhere by an exchange.
  augment = with_exchange(_method('baseline', padding=9), probability=1.0)
  views = quick_jit(augment.augment)(KEY, _plain_batch())
  visible, infrared = (_pixels(views[m]) for m in ('visible', 'infrared'))
  assert (visible == 0).any() and (infrared == 0).any()
  for image in visible:
    rows, columns = np.nonzero(image != 0)
    box = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert (box != 0).all()


@pytest.mark.parametrize('intermediate', ['random_gray', 'gray'])
@pytest.mark.parametrize('independent', [True, False])
def test_lupis_z_is_made_of_the_original_image(intermediate, independent):
  method = _method(
    'lupi', intermediate=intermediate, independent_views=independent
  )
  augment = with_exchange(method, probability=1.0).augment
  views = quick_jit(augment)(KEY, _plain_batch())
  assert (_pixels(views['visible']) == 50).any()
  assert (_pixels(views['intermediate']) == 200).all()


def test_lupis_z_keeps_the_crop_and_flip_of_its_visible_image():
  rng = np.random.default_rng(0)
  gray = rng.integers(1, 256, (2, 12, 32, 16, 1)).astype(np.uint8)
  visible, infrared = jnp.broadcast_to(gray, (*gray.shape[:-1], 3))
  batch = {'visible': visible, 'infrared': infrared, 'label': jnp.arange(12)}
  method = _method('lupi', padding=3, independent_views=False)
  views = quick_jit(with_exchange(method, probability=1.0).augment)(KEY, batch)
  differs = (views['visible'] != views['intermediate']).any(-1)
  for mask in np.asarray(differs):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    # All that differs lies within one rectangle, and nearly fills it.
    assert mask.mean() < 0.5
    assert mask.sum() >= 0.9 * len(rows) * len(columns)
  # A crop may have lost it.
  assert np.count_nonzero(differs.any((1, 2))) > 6


def test_calling_augment_twice_does_not_double_its_work():
  batch = _plain_batch(8)
  method = _method('lupi', padding=3)

  def flops(method):
    compiled = jax.jit(method.augment).lower(KEY, batch).compile()
    return compiled.cost_analysis()['flops']

  assert flops(with_exchange(method)) < 1.5 * flops(method)


def test_a_method_of_derived_views_alone_keeps_them():
  method = _method('baseline', modalities=('gray', 'infrared'))
  views = quick_jit(with_exchange(method, probability=1.0).augment)(
    KEY, _plain_batch()
  )
  assert set(views) == {'gray', 'infrared', 'label'}
  assert (_pixels(views['gray']) == 200).all()
  assert (_pixels(views['infrared']) == 200).any()


def test_numbers_of_an_exchange_are_checked_at_once():
  with pytest.raises(ValueError, match=r'exchange.area .*\(0.5, 0.1\)'):
    with_exchange(_method('xiv'), area=(0.5, 0.1))


# The multi-mask triplet.


def _output(streams):
  """What a network might give: no two modalities, and no two layers alike."""
  rng = np.random.default_rng(6)
  person = rng.normal(size=(CLASSES, 8))[list(LABEL)]
  f, neck = (
    {s: person + 0.7 * rng.normal(size=(4, 8)) for s in streams}
    for _ in range(2)
  )
  z = {s: 2 * rng.normal(size=(4, CLASSES)) for s in streams}
  return NetworkOutput(*jax.tree.map(jnp.float32, ((), f, neck, z)))


def _directed(anchors, others, margin, spread_margin, spread_weight, weight):
  values = []
  for a, y in zip(np.float64(anchors), LABEL, strict=True):
    distance = [np.linalg.norm(a - b) for b in np.float64(others)]
    positive = [d for d, z in zip(distance, LABEL, strict=True) if z == y]
    negative = [d for d, z in zip(distance, LABEL, strict=True) if z != y]
    triplet = max(positive) - min(negative) + margin
    spread = max(positive) - min(positive) - spread_margin
    values.append(weight * max(0, triplet) + spread_weight * max(0, spread))
  return np.mean(values)


PARTS = {
  'both': (1.0, 0.5),
  'negative': (1.0, 0.0),
  'positive': (0.0, 0.5),
}


@pytest.mark.parametrize('part', PARTS)
@pytest.mark.parametrize('name', METHODS)
def test_a_term_of_pooled_features_is_added(monkeypatch, name, part):
  method = _method(name)
  triplet_weight, spread_weight = PARTS[part]
  output = _output(METHODS[name][1])
  monkeypatch.setattr(baseline_module, 'forward', lambda *_: (output, {}))
  batch = {
    'visible': jnp.zeros((4, 32, 16, 3)),
    'infrared': jnp.zeros((4, 32, 16, 3)),
    'label': jnp.asarray(LABEL),
  }
  variables = quick_jit(method.init)(KEY, _plain_batch(2))
  own, own_aux = method.losses['backbone'](variables, batch, KEY, {})
  plugged = with_multi_mask(
    method,
    weight=3.0,
    margin=2.5,
    spread_margin=0.2,
    spread_weight=spread_weight,
    triplet_weight=triplet_weight,
  )
  total, aux = plugged.losses['backbone'](variables, batch, KEY, {})
  v, t = output.pooled['visible'], output.pooled['infrared']
  numbers = (2.5, 0.2, spread_weight, triplet_weight)
  expected = _directed(v, t, *numbers) + _directed(t, v, *numbers)
  assert expected > 0
  assert_allclose(aux.metrics['multi_mask'], expected, rtol=1e-4)
  assert_allclose(total - own, 3 * expected, rtol=1e-4)
  assert set(aux.metrics) == {*own_aux.metrics, 'multi_mask'}


def _two_players():
  """x is pulled to 0 by one player; another owns y."""

  def first(variables, batch, key, outputs):
    x = variables['params']['backbone']['x']
    embeddings = {'visible': 2 * x, 'infrared': x}
    metrics = {'square': (x**2).sum()}
    return metrics['square'], Aux(metrics, embeddings=embeddings)

  def second(variables, batch, key, outputs):
    return variables['params']['other']['y'], Aux({})

  losses = {'other': second, 'backbone': first}
  return Method(print, print, losses, print)


def test_the_gradient_of_the_term_reaches_its_player():
  method = with_embedding_loss(
    _two_players(),
    'backbone',
    lambda f, labels: (f['visible'] - labels[:, None]).sum(1),
    10.0,
    name='term',
  )
  assert list(method.losses) == ['other', 'backbone']
  x = jnp.array([[0.5, 1.0], [1.5, -2.0]])
  batch = {'label': jnp.array([3, 4])}

  def total(x):
    variables = {'params': {'backbone': {'x': x}}}
    return method.losses['backbone'](variables, batch, KEY, {})

  (value, aux), gradient = jax.value_and_grad(total, has_aux=True)(x)
  # Rows of 2 x less the label, their sums' mean: (3 - 6 - 1 - 8) / 2.
  assert_allclose(aux.metrics['term'], -6)
  assert_allclose(value, 7.5 - 60)
  assert_allclose(gradient, 2 * x + 10 * 2 / 2)
  assert_allclose(aux.metrics['square'], 7.5)
  others = {'params': {'other': {'y': jnp.float32(2)}}}
  assert method.losses['other'](others, batch, KEY, {})[0] == 2


def test_an_unknown_player_is_named():
  with pytest.raises(ValueError, match=r"'teacher' .*other, backbone"):
    with_embedding_loss(_two_players(), 'teacher', lambda f, y: y, 1.0)


def test_a_single_modality_has_nothing_to_compare(monkeypatch):
  method = with_multi_mask(_method('baseline', modalities=('visible',)))
  output = _output(('visible',))
  monkeypatch.setattr(baseline_module, 'forward', lambda *_: (output, {}))
  batch = {'label': jnp.asarray(LABEL)}
  with pytest.raises(ValueError, match='only: visible'):
    method.losses['backbone']({}, batch, KEY, {})
