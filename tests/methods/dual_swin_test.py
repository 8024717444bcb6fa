"""dual_swin: its total term by term, its paths, and what each row leaves out.

A Swin of an embedding and three stages on images of 32 x 16.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from configs import dual_swin as config_file
from jaxreid import experiment, train_state
from jaxreid.augment import color
from jaxreid.methods import baseline
from jaxreid.methods.dual_swin import dual_swin
from jaxreid.models.streams import NetworkOutput, count_parameters
from jaxreid.models.swin import PatchEmbedding, SwinStage
from jaxreid.train_step import make_train_step

# Programs that run once are not worth optimising.
quick_jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)
KEY = jax.random.key(3)
CLASSES = 5
LABEL = (4, 4, 1, 1)
TWO = ('visible', 'infrared')


def _stages(drop_path=0.0):
  def stage(last):
    return lambda name: SwinStage(
      heads=2, window=2, drop_path=(drop_path,), last=last, name=name
    )

  return (
    lambda name: PatchEmbedding(4, name=name),
    stage(False),
    stage(False),
    stage(True),
  )


def _batch(seed=0):
  rng = np.random.default_rng(seed)
  size = (len(LABEL), 32, 16, 3)
  return {
    'visible': jnp.asarray(rng.integers(0, 256, size), jnp.uint8),
    'infrared': jnp.asarray(rng.integers(0, 256, size), jnp.uint8),
    'label': jnp.asarray(LABEL, jnp.int32),
  }


def _method(stages=None, **options):
  stages = _stages() if stages is None else stages
  return dual_swin(CLASSES, stages, **{'padding': 2, **options})


def _init(method):
  return quick_jit(method.init)(jax.random.key(1), _batch())


@pytest.fixture(scope='module')
def variables():
  return _init(_method())


def _step(method, variables, batch=None):
  """State before, state after, metrics."""
  optimizers = {'backbone': optax.sgd(0.1)}
  given = method._replace(init=lambda key, batch: variables)
  before = train_state.create(given, optimizers, KEY, _batch())
  step = quick_jit(make_train_step(method, optimizers))
  return before, *step(before, _batch() if batch is None else batch, KEY)


def _changed(old, new):
  return [
    bool((np.asarray(a) != np.asarray(b)).any())
    for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
  ]


def test_a_step_changes_the_backbone_and_nothing_else(variables):
  with_teacher = {
    part: {**trees, 'teacher': {'w': jnp.arange(3.0)}}
    for part, trees in variables.items()
  }
  before, after, metrics = _step(_method(), with_teacher)
  for part in ('params', 'model_state'):
    old, new = getattr(before, part), getattr(after, part)
    assert np.mean(_changed(old['backbone'], new['backbone'])) > 0.9
    assert not any(_changed(old['teacher'], new['teacher']))
  assert set(metrics) == {'loss', 'identity', 'multi_mask', 'accuracy'}
  assert all(np.isfinite(float(value)) for value in metrics.values())


def test_gradients_are_finite_where_all_images_are_one(variables):
  black = {name: jnp.zeros_like(x) for name, x in _batch().items()}
  black['label'] = _batch()['label']
  _, after, metrics = _step(_method(), variables, black)
  for leaf in jax.tree.leaves((after.params, metrics)):
    assert np.isfinite(np.asarray(leaf)).all()


# Loops over the outputs, in NumPy: nothing of jaxreid.losses.


def _output():
  """What a network might give: no two modalities alike."""
  rng = np.random.default_rng(6)
  person = rng.normal(size=(CLASSES, 8))[list(LABEL)]
  f = {s: person + 0.7 * rng.normal(size=(4, 8)) for s in TWO}
  z = {s: 2 * rng.normal(size=(4, CLASSES)) for s in TWO}
  return NetworkOutput(*jax.tree.map(jnp.float32, ((), f, f, z)))


def _identity(logits):
  values = []
  for z, y in zip(np.float64(logits), LABEL, strict=True):
    values.append(z.max() + np.log(np.exp(z - z.max()).sum()) - z[y])
  return np.mean(values)


def _parts(anchors, others, margin, spread_margin):
  """MMTN and MMTP of one direction."""
  triplets, spreads = [], []
  for a, y in zip(np.float64(anchors), LABEL, strict=True):
    distance = [np.linalg.norm(a - b) for b in np.float64(others)]
    positive = [d for d, z in zip(distance, LABEL, strict=True) if z == y]
    negative = [d for d, z in zip(distance, LABEL, strict=True) if z != y]
    triplets.append(max(0, max(positive) - min(negative) + margin))
    spreads.append(max(0, max(positive) - min(positive) - spread_margin))
  return np.array([np.mean(triplets), np.mean(spreads)])


# ablation: weights of identity, MMTN and MMTP
TOTALS = {
  '': (1, 1, 0.5),
  'baseline': (1, 0, 0),
  'mag': (1, 0, 0),
  'mmtn': (1, 1, 0),
  'mmtp': (1, 0, 0.5),
  'mmt': (1, 1, 0.5),
}


@pytest.mark.parametrize('ablation', TOTALS)
def test_total_of_each_row_of_table_2(monkeypatch, ablation):
  weights = TOTALS[ablation]
  # Margins at which both hinges are open.
  options = {
    **config_file.ABLATIONS[ablation],
    'margin': 2.5,
    'spread_margin': 0.2,
  }
  output = _output()
  v, t = (output.pooled[s] for s in TWO)
  both = _parts(v, t, 2.5, 0.2) + _parts(t, v, 2.5, 0.2)
  assert both.min() > 0
  identity = np.mean([_identity(output.logits[s]) for s in TWO])
  monkeypatch.setattr(baseline, 'forward', lambda *_: (output, {}))
  method = _method(**options)
  total, aux = method.losses['backbone'](
    {}, {'label': jnp.asarray(LABEL)}, KEY, {}
  )
  assert_allclose(total, np.dot(weights, [identity, *both]), rtol=1e-4)
  assert ('multi_mask' in aux.metrics) == (weights[1:] != (0, 0))


@pytest.mark.parametrize('ablation', TOTALS)
def test_images_are_exchanged_in_the_rows_with_mag(ablation):
  images = jnp.ones((16, 32, 16, 3), jnp.uint8)
  batch = {
    'visible': 200 * images,
    'infrared': 50 * images,
    'label': jnp.zeros(16, jnp.int32),
  }
  method = _method(padding=0, **config_file.ABLATIONS[ablation])
  views = quick_jit(method.augment)(KEY, batch)
  pixels = np.round(np.asarray(color.denormalize(views['visible'])))
  exchanged = set(np.unique(pixels)) == {50, 200}
  assert exchanged == (ablation in ('', 'mag'))


# Paths.


@pytest.mark.parametrize('split', [1, 2, 3, 4])
def test_the_first_stages_are_private(split):
  params = jax.eval_shape(_method(split=split).init, KEY, _batch())['params']
  private = {f'{s}_stage{i}' for s in TWO for i in range(split)}
  shared = {f'stage{i}' for i in range(split, 4)}
  assert set(params['backbone']['backbone']) == private | shared


def test_a_modality_passes_its_own_path(variables):
  method = _method()
  images = _batch(4)['visible']

  @quick_jit
  def embed_both(variables):
    return [method.embed(variables, images, modality) for modality in TWO]

  # Both paths start from the same weights.
  visible, infrared = embed_both(variables)
  assert visible.shape == (4, 1, 16)
  lengths = np.linalg.norm(visible, axis=-1)
  assert_allclose(lengths, np.ones((4, 1)), rtol=1e-5)
  assert_allclose(visible, infrared, rtol=1e-4, atol=1e-6)
  for i in range(3):
    params = jax.tree.map(lambda x: x, variables['params'])
    backbone = params['backbone']['backbone']
    backbone[f'visible_stage{i}'] = jax.tree.map(
      lambda x: -2 * x, backbone[f'visible_stage{i}']
    )
    moved = embed_both({**variables, 'params': params})
    assert_array_equal(moved[1], infrared)
    assert np.abs(moved[0] - visible).max() > 1e-4


def test_branches_are_skipped_with_the_key_of_the_step():
  method = _method(_stages(drop_path=0.5))
  variables = _init(method)
  views = quick_jit(method.augment)(KEY, _batch())
  loss = quick_jit(method.losses['backbone'])
  first, second, other = (
    float(loss(variables, views, jax.random.key(seed), {})[0])
    for seed in (0, 0, 1)
  )
  assert first == second != other


# Swin-T as published has 27,519,354 parameters without its classifier.
# A stage of width c: two blocks of 12 c^2 + 13 c and 169 biases a head, and a
# patch merging of 8 c^2 + 8 c.
EMBEDDING = 4 * 4 * 3 * 96 + 3 * 96
STAGES = [
  2 * (12 * c**2 + 13 * c + 169 * heads) + 8 * c**2 + 8 * c
  for c, heads in ((96, 3), (192, 6))
]


def test_parameters_at_the_papers_size():
  config = config_file.get_config('dataset=npu_reid')
  method = experiment.make_method(config, 480)
  batch = {
    'visible': jax.ShapeDtypeStruct((4, 224, 224, 3), jnp.uint8),
    'infrared': jax.ShapeDtypeStruct((4, 224, 224, 3), jnp.uint8),
    'label': jax.ShapeDtypeStruct((4,), jnp.int32),
  }
  variables = jax.eval_shape(method.init, KEY, batch)
  params = variables['params']['backbone']
  assert params['head']['classifier']['kernel'].shape == (768, 480)
  # The second path.
  expected = 27_519_354 + EMBEDDING + sum(STAGES)
  assert count_parameters(params['backbone']) == expected
  images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.uint8)
  embed = functools.partial(method.embed, modality='infrared')
  assert jax.eval_shape(embed, variables, images).shape == (2, 1, 768)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'split': 5}, 'method.split .*5'),
    ({'pooling': 'max'}, 'method.pooling .*max'),
    ({'test_feature': 'logits'}, 'method.test_feature .*logits'),
    ({'exchange_probability': 2.0}, 'exchange.probability .*2.0'),
    ({'exchange_area': (0.9, 0.1)}, r'exchange.area .*\(0.9, 0.1\)'),
    ({'exchange_aspect': (0.0, 1.0)}, r'exchange.aspect .*\(0.0, 1.0\)'),
  ],
)
def test_options_out_of_range_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    _method(**options)


def test_the_docstring_of_the_config_lists_all_ablations():
  section = config_file.__doc__.split('tables:')[1].split('Table 6')[0]
  listed = re.findall(r'^  ([\w()]+) +\S', section, re.MULTILINE)
  expected = sorted(name or '(none)' for name in config_file.ABLATIONS)
  assert sorted(listed) == expected


def test_both_streams_start_from_the_same_weights():
  """As both do from a file of ImageNet weights."""
  params = _init(_method(split=2))['params']['backbone']['backbone']
  for i in range(2):
    first, second = (params[f'{stream}_stage{i}'] for stream in TWO)
    jax.tree.map(assert_array_equal, first, second)
    kernels = [x for x in jax.tree.leaves(first) if x.ndim > 1]
    assert all(x.std() > 0 for x in kernels)
