"""TS-GAN: Algorithm 1, the totals term by term, and what test needs."""

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxreid import losses, train_state
from jaxreid.augment import color
from jaxreid.methods import plugins
from jaxreid.methods.tsgan import STREAMS, tsgan
from jaxreid.models.cyclegan import Discriminator
from jaxreid.models.head import Head
from jaxreid.models.resnet import BasicBlock, ResidualStage, Stem
from jaxreid.models.streams import EmbeddingNetwork, MultiStream, unfold
from jaxreid.train_step import make_train_step

# Programs that run once are not worth optimising.
quick_jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)
KEY = jax.random.key(3)
CLASSES = 5
LABEL = (4, 4, 1, 1)
PLAYERS = ('generator', 'backbone', 'discriminator')


def _stages():
  return (
    lambda name: Stem(4, name=name),
    lambda name: ResidualStage(BasicBlock, 6, 1, 1, name=name),
    lambda name: ResidualStage(BasicBlock, 8, 1, 1, name=name),
  )


def _method(**options):
  small = {
    'generator_width': 4,
    'generator_blocks': 1,
    'generator_kernel': 3,
    'discriminator_width': 4,
    'padding': 1,
  }
  return tsgan(CLASSES, _stages(), **{**small, **options})


def _batch(seed=0):
  rng = np.random.default_rng(seed)
  size = (len(LABEL), 16, 8, 3)
  return {
    'visible': jnp.asarray(rng.integers(0, 256, size), jnp.uint8),
    'infrared': jnp.asarray(rng.integers(0, 256, size), jnp.uint8),
    'label': jnp.asarray(LABEL, jnp.int32),
  }


def _views():
  batch = _batch()
  return {
    'visible': color.normalize(batch['visible']),
    'infrared': color.normalize(batch['infrared']),
    'label': batch['label'],
  }


def _variables(method):
  """Of a start at which every part makes a difference."""
  made = quick_jit(method.init)(jax.random.key(1), _batch())
  params = dict(made['params'])
  for player in ('generator', 'discriminator'):
    params[player] = jax.tree.map(lambda x: 8 * x, params[player])
  return {**made, 'params': params}


@pytest.fixture(scope='module')
def variables():
  return _variables(_method())


def _same(a, b):
  return all(
    np.array_equal(x, y)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def _direction(params):
  """As long as 1; all parameters take part."""
  flat, unravel = jax.flatten_util.ravel_pytree(params)
  drawn = jax.random.normal(jax.random.key(8), flat.shape)
  return unravel(drawn / jnp.linalg.norm(drawn))


@pytest.fixture(scope='module')
def slopes(variables):
  """player -> ((total, aux), their slopes), jitted, what it was given."""
  method = _method()
  outputs, found = {}, {}
  for player, loss in method.losses.items():

    def along(params, variables, given, loss=loss, player=player):
      def objective(params):
        both = {**variables, 'params': {**variables['params'], player: params}}
        return loss(both, _views(), KEY, given)

      return jax.jvp(objective, (params,), (_direction(params),))

    run = quick_jit(along)
    made = run(variables['params'][player], variables, outputs)
    found[player] = (made, run, outputs)
    outputs = {**outputs, **made[0][1].outputs}
  return found


@pytest.fixture(scope='module')
def phases(slopes):
  """What each loss gives at one set of variables, with jitted losses."""
  return {player: made[0] for player, (made, _, _) in slopes.items()}


# Algorithm 1.


def _sgd():
  """Descent whose rate is its state, so that one program serves all rates."""

  def update(grads, rate, params=None):
    del params
    return jax.tree.map(lambda g: -rate * g, grads), rate

  return optax.GradientTransformation(lambda params: jnp.float32(0.05), update)


@pytest.fixture(scope='module')
def step(variables):
  """(the state before, the compiled step)."""
  optimizers = {player: _sgd() for player in PLAYERS}
  method = _method()
  given = method._replace(init=lambda key, batch: variables)
  before = train_state.create(given, optimizers, KEY, _batch())
  return before, quick_jit(make_train_step(method, optimizers))


@pytest.mark.parametrize('player', PLAYERS)
def test_a_phase_changes_exactly_its_own_player(step, player):
  start, move = step
  still = {p: jnp.float32(0) for p in PLAYERS if p != player}
  before = start.replace(opt_state={**start.opt_state, **still})
  after, _ = move(before, _batch(), KEY)
  changed = {
    p for p in before.params if not _same(before.params[p], after.params[p])
  }
  assert changed == {player}
  # The statistics are the backbone's: its phase runs at rate 0, too.
  moved = {
    p
    for p in before.model_state
    if not _same(before.model_state[p], after.model_state[p])
  }
  assert moved == {'backbone'}


def test_the_teacher_never_changes(step):
  before, move = step
  assert set(before.opt_state) == set(PLAYERS)
  state = before
  for seed in range(2):
    state, _ = move(state, _batch(seed), KEY)
  for part in ('params', 'model_state'):
    old, new = getattr(before, part), getattr(state, part)
    assert jax.tree.leaves(old['teacher'])
    assert _same(old['teacher'], new['teacher'])
  for player in PLAYERS:
    assert not _same(before.params[player], state.params[player])


def test_players_move_in_the_order_of_algorithm_1():
  assert tuple(_method().losses) == PLAYERS


def _network():
  return EmbeddingNetwork(
    MultiStream(_stages(), 0, STREAMS),
    Head(CLASSES, 'average', neck_scale_std=0.0),
  )


def _apply(variables, images, train):
  output, _ = quick_jit(
    functools.partial(_network().apply, train=train, mutable=['batch_stats'])
  )(
    {
      'params': variables['params']['backbone'],
      'batch_stats': variables['model_state']['backbone'],
    },
    images,
  )
  return output


def test_images_and_maps_are_made_once_and_handed_on(variables, phases):
  fake = phases['generator'][1].outputs['fake_infrared']
  views = _views()
  made = _method().views(variables, _batch()['visible'], 'visible')
  assert_allclose(color.denormalize(fake), made['fake infrared'], atol=0.05)
  # The maps are those of the images before the update, as in line 3.
  images = {m: views[m] for m in ('visible', 'infrared')}
  maps = unfold(
    _apply(variables, {**images, 'fake': fake}, True).feature_maps[-1], STREAMS
  )
  outputs = phases['backbone'][1].outputs
  assert set(outputs) == {'real_map', 'fake_map'}
  assert_allclose(outputs['real_map'], maps['infrared'], rtol=1e-3, atol=1e-4)
  assert_allclose(outputs['fake_map'], maps['fake'], rtol=1e-3, atol=1e-4)


def test_other_players_are_at_rest(phases):
  for player in ('generator', 'discriminator'):
    assert phases[player][1].model_state == {}


def test_gradient_through_the_feature_map(variables):
  gradients = []
  for detach in (False, True):
    loss = _method(detach_feature_map=detach, cycle_weight=0.0).losses[
      'generator'
    ]

    def total(params, loss=loss):
      given = {**variables['params'], 'generator': params}
      return loss({**variables, 'params': given}, _views(), KEY, {})[0]

    value, gradient = quick_jit(jax.value_and_grad(total))(
      variables['params']['generator']
    )
    gradients.append((float(value), gradient))
  assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-5)
  assert not _same(gradients[0][1]['infrared'], gradients[1][1]['infrared'])
  for a, b in zip(
    *(jax.tree.leaves(g['visible']) for _, g in gradients), strict=True
  ):
    assert_allclose(a, b, rtol=1e-3, atol=1e-6)


# Totals.


def _to_unit(x):
  return color.denormalize(x) / 127.5 - 1


def _judge(variables, joint, name, *given):
  params = variables['params']['discriminator'][name]
  return Discriminator(4, joint).apply({'params': params}, *given)


@pytest.mark.parametrize('player', PLAYERS)
def test_every_term_has_its_gradient(variables, slopes, player):
  """No gradient is stopped on its way: slopes are those by differences."""
  (_, (slope, aux)), run, given = slopes[player]
  params = variables['params'][player]
  direction = _direction(params)
  ends = []
  for step in (2e-3, -2e-3):
    moved = jax.tree.map(lambda p, d, by=step: p + by * d, params, direction)
    total, there = run(moved, variables, given)[0]
    ends.append({'total': total, **there.metrics})
  slopes = {'total': slope, **aux.metrics}
  for name in slopes:
    if 'accuracy' not in name:
      by_difference = (ends[0][name] - ends[1][name]) / 4e-3
      assert abs(slopes[name]) > 1e-4, name
      assert_allclose(
        slopes[name], by_difference, rtol=0.1, atol=3e-5, err_msg=name
      )


def test_equations_1_and_12(variables, phases):
  made = phases['generator'][1].outputs
  maps = phases['backbone'][1].outputs
  fake = made['fake_infrared']
  # Line 1 has the backbone at rest; line 3 has it in training.
  at_rest = _apply(variables, {'fake': fake}, False).feature_maps[-1]
  fooled = _judge(variables, True, 'infrared', _to_unit(fake), at_rest)
  metrics = phases['generator'][1].metrics
  assert_allclose(
    metrics['g_infrared'], -jax.nn.log_sigmoid(fooled).mean(), rtol=2e-3
  )
  seen = _judge(variables, False, 'visible', _to_unit(made['fake_visible']))
  assert_allclose(
    metrics['g_visible'], -jax.nn.log_sigmoid(seen).mean(), rtol=2e-3
  )
  real = _views()['infrared']
  terms = [
    -jax.nn.log_sigmoid(
      _judge(variables, True, 'infrared', _to_unit(image), maps[seen])
    ).mean()
    for image, seen in (
      (fake, 'fake_map'),
      (fake, 'real_map'),
      (real, 'fake_map'),
    )
  ]
  gan = phases['backbone'][1].metrics['gan']
  assert_allclose(gan, sum(terms) / 3, rtol=2e-3)
  # Each of the three makes a difference here.
  assert min(abs(float(gan - term)) for term in terms) > 4e-3


def test_equation_7(phases):
  total, aux = phases['generator']
  metrics = aux.metrics
  assert min(float(value) for value in metrics.values()) > 0
  expected = (
    metrics['g_infrared'] + metrics['g_visible'] + 10 * metrics['cycle']
  )
  assert_allclose(total, expected, rtol=1e-5)


def test_cycles_are_the_images_of_both_generators(variables, phases):
  method = _method()
  cycle = 0.0
  for m in ('visible', 'infrared'):
    images = _batch()[m]
    back = method.views(variables, images, m)[f'{m} cycle']
    difference = np.asarray(images, np.float64) - np.asarray(back, np.float64)
    cycle += np.abs(difference).mean() / 127.5
  assert_allclose(phases['generator'][1].metrics['cycle'], cycle, rtol=1e-3)


def _maps(variables, fake):
  """Middle maps: of the teacher at rest, and of the student in training."""
  teacher = MultiStream(_stages()[:-1], 0, ('infrared',))
  own = {
    'params': variables['params']['teacher'],
    'batch_stats': variables['model_state']['teacher'],
  }
  images = {m: _views()[m] for m in ('visible', 'infrared')} | {'fake': fake}
  taught = {
    s: teacher.apply(own, {'infrared': images[s]}, False)[-1]
    for s in ('infrared', 'fake')
  }
  output = _apply(variables, images, True)
  return taught, unfold(output.feature_maps[-2], STREAMS), output


def _distance(a, b):
  return ((np.float64(a) - np.float64(b)) ** 2).reshape(len(a), -1)


def test_equations_8_to_16(variables, phases):
  fake = phases['generator'][1].outputs['fake_infrared']
  taught, seen, output = _maps(variables, fake)
  total, aux = phases['backbone']
  m = {name: float(value) for name, value in aux.metrics.items()}
  for name, a, b in (
    ('real', taught['infrared'], seen['infrared']),
    ('fake', taught['fake'], seen['fake']),
    ('cross', taught['fake'], seen['visible']),
  ):
    squared = _distance(a, b).mean()
    assert_allclose(m[f'teacher_{name}'], squared, rtol=2e-3)
  logits = jnp.concatenate([output.logits[s] for s in STREAMS])
  f = jnp.concatenate([output.pooled[s] for s in STREAMS])
  labels = jnp.asarray(3 * LABEL)
  identity = losses.identity_loss(logits, labels, 0.1).mean()
  triplet = losses.batch_hard_triplet(f, f, f, labels, 0.3).mean()
  assert_allclose(m['identity'], identity, rtol=1e-3)
  assert_allclose(m['triplet'], triplet, rtol=2e-3)
  same = m['teacher_real'] + m['teacher_fake']
  guidance = 0.003 * same + 0.006 * m['teacher_cross']
  expected = 3 * m['identity'] + m['triplet'] + 0.1 * m['gan'] + guidance
  assert_allclose(total, expected, rtol=1e-5)
  assert set(aux.embeddings) == set(STREAMS)


def test_the_sum_of_a_map_and_single_terms(variables, phases):
  given = phases['generator'][1].outputs
  both = {}
  for reduction in ('mean', 'sum'):
    method = _method(
      map_reduction=reduction,
      teacher_losses=('cross',),
      discriminator='ordinary',
    )
    total, aux = quick_jit(method.losses['backbone'])(
      variables, _views(), KEY, given
    )
    assert 'teacher_real' not in aux.metrics
    assert 'gan' not in aux.metrics
    assert aux.outputs == {}
    both[reduction] = float(aux.metrics['teacher_cross'])
    rest = 3 * aux.metrics['identity'] + aux.metrics['triplet']
    assert_allclose(total - rest, 0.006 * both[reduction], rtol=0.02)
  taught, _, _ = _maps(variables, given['fake_infrared'])
  assert both['sum'] / both['mean'] == pytest.approx(
    taught['fake'][0].size, rel=1e-3
  )


def test_equation_2_of_both_discriminators(variables, phases):
  images = phases['generator'][1].outputs
  maps = phases['backbone'][1].outputs
  total, aux = phases['discriminator']
  judge = functools.partial(_judge, variables)
  real, fake = _to_unit(_views()['infrared']), _to_unit(images['fake_infrared'])
  of_real = judge(True, 'infrared', real, maps['real_map'])
  of_fakes = [
    judge(True, 'infrared', *pair)
    for pair in (
      (fake, maps['fake_map']),
      (fake, maps['real_map']),
      (real, maps['fake_map']),
    )
  ]
  expected = -jax.nn.log_sigmoid(of_real).mean()
  expected += sum(-jax.nn.log_sigmoid(-x).mean() for x in of_fakes) / 3
  seen = judge(False, 'visible', _to_unit(_views()['visible']))
  made = judge(False, 'visible', _to_unit(images['fake_visible']))
  expected -= jax.nn.log_sigmoid(seen).mean()
  expected -= jax.nn.log_sigmoid(-made).mean()
  assert_allclose(total, expected, rtol=2e-3)
  m = aux.metrics
  for name, right in (
    ('real', of_real > 0),
    ('fake', of_fakes[0] <= 0),
    ('mixed', jnp.stack(of_fakes[1:]) <= 0),
  ):
    share = m[f'd_infrared_accuracy_{name}']
    assert_allclose(share, right.mean(), atol=0.05)
  assert 'd_visible_accuracy_mixed' not in m
  for name in ('infrared', 'visible'):
    both = m[f'd_{name}_accuracy_real'] + m[f'd_{name}_accuracy_fake']
    assert_allclose(m[f'd_{name}_accuracy'], both / 2, rtol=1e-5)


def test_least_squares_and_ordinary(phases):
  method = _method(gan_loss='least_squares', discriminator='ordinary')
  variables = _variables(method)
  assert 'map_layer' not in variables['params']['discriminator']['infrared']
  outputs = phases['generator'][1].outputs
  total, aux = quick_jit(method.losses['discriminator'])(
    variables, _views(), KEY, outputs
  )
  expected = 0.0
  for m in ('visible', 'infrared'):
    real, fake = (
      _judge(variables, False, m, _to_unit(x))
      for x in (_views()[m], outputs[f'fake_{m}'])
    )
    expected += jnp.square(real - 1).mean() + jnp.square(fake).mean()
  assert_allclose(total, expected, rtol=2e-3)
  of_joint = set(phases['discriminator'][1].metrics)
  assert set(aux.metrics) == of_joint - {'d_infrared_accuracy_mixed'}


# The rest of the interface.


def test_embedding_needs_the_backbone_alone(variables):
  method = _method()
  only = {part: {'backbone': x['backbone']} for part, x in variables.items()}
  images = _batch()['visible']
  embed = quick_jit(method.embed, static_argnums=2)
  for modality in ('visible', 'infrared', 'gray'):
    f = embed(only, images, modality)
    assert f.shape == (4, 1, 8)
    assert_allclose(jnp.linalg.norm(f, axis=-1), 1, rtol=1e-5)
  # One network: the modality makes no difference to the same pixels.
  assert_array_equal(
    embed(only, images, 'visible'), embed(only, images, 'infrared')
  )


def test_views_have_names_and_the_scale_of_pixels(variables):
  views = _method().views
  for modality, other in (('visible', 'infrared'), ('infrared', 'visible')):
    made = views(variables, _batch()[modality], modality)
    assert set(made) == {f'fake {other}', f'{modality} cycle'}
    for pixels in made.values():
      assert pixels.shape == (4, 16, 8, 3)
      assert -0.01 <= float(pixels.min()) < float(pixels.max()) <= 255.01


def test_plug_ins_fit(variables, phases):
  method = plugins.with_multi_mask(_method(), weight=0.7)
  outputs = phases['generator'][1].outputs
  total, aux = quick_jit(method.losses['backbone'])(
    variables, _views(), KEY, outputs
  )
  plain, _ = phases['backbone']
  assert_allclose(total - plain, 0.7 * aux.metrics['multi_mask'], rtol=1e-2)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'discriminator': 'both'}, 'method.discriminator .*both'),
    ({'gan_loss': 'wgan'}, 'method.gan_loss .*wgan'),
    ({'map_reduction': 'max'}, 'method.map_reduction .*max'),
    ({'pooling': 'max'}, 'method.pooling .*max'),
    ({'teacher_losses': ('rgb',)}, 'method.teacher_losses .*rgb'),
    ({'test_feature': 'logits'}, 'method.test_feature .*logits'),
  ],
)
def test_options_that_do_not_exist_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    _method(**options)
