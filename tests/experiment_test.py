"""From a config to a run: what is built, and how mistakes are named."""

import itertools

import jax
import numpy as np
import optax
import pytest

from configs import lupi as lupi_config
from jaxreid import experiment, optim
from jaxreid.data.source import INFRARED, VISIBLE, Records, Table
from jaxreid.method import Method

IDENTITIES = 12


def _records(images=5):
  identity, modality = np.array(
    [
      (3 * person + 7, m)
      for person in range(IDENTITIES)
      for m in (VISIBLE, INFRARED)
      for _ in range(images)
    ]
  ).T
  order = np.random.default_rng(0).permutation(len(identity))
  zeros = np.zeros_like(identity)
  return Records(identity[order], zeros, zeros, modality[order], zeros, zeros)


def _table():
  records = _records()
  size = (len(records.identity), 32, 16, 3)
  pixels = np.random.default_rng(1).integers(0, 256, size).astype(np.uint8)
  return Table(pixels, records, 'fingerprint')


def _config():
  """A single stream, small in every way."""
  config = lupi_config.get_config('ablation=visible_only')
  config.dataset.image_size = (32, 16)
  config.batch.identities = 4
  config.batch.images_per_identity = 2
  config.backbone.nonlocal_blocks = False
  return config


@pytest.fixture
def config():
  return _config()


def _open(calls):
  def open_table(*arguments):
    calls.append(arguments)
    return _table()

  return open_table


@pytest.fixture
def opened(monkeypatch):
  """Takes the place of the dataset; lists what was opened."""
  calls = []
  monkeypatch.setattr(experiment, 'open_table', _open(calls))
  return calls


@pytest.fixture(scope='module')
def assembled():
  """What was opened, the run, and its first state on the host."""
  calls = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(experiment, 'open_table', _open(calls))
    setup = experiment.build(_config())
  state = setup.init()
  return calls, setup, state


def _classifier(state):
  return np.asarray(state.params['backbone']['head']['classifier']['kernel'])


def test_a_run_is_assembled(assembled):
  calls, setup, state = assembled
  assert calls == [('synthetic_reid', 'small', 'train', (32, 16), None)]
  assert setup.mesh.size == 8
  assert setup.sampler.num_classes == IDENTITIES
  assert setup.sampler.batch_size == 8
  # 60 images of either modality, 8 of them a step; 7 epochs.
  assert setup.sampler.steps_per_epoch == 8
  assert setup.total_steps == 56
  assert setup.images_per_step == 8
  assert setup.feed.pixels is None  # 'auto' on a CPU
  assert _classifier(state).shape[1] == IDENTITIES


def test_shapes_are_those_of_the_first_state(assembled):
  _, setup, state = assembled
  shapes = setup.shapes()
  assert jax.tree.structure(shapes) == jax.tree.structure(state)
  for leaf, shape in zip(
    jax.tree.leaves(state), jax.tree.leaves(shapes), strict=True
  ):
    assert (leaf.shape, leaf.dtype) == (shape.shape, shape.dtype)
    assert leaf.sharding.is_equivalent_to(shape.sharding, leaf.ndim)
    assert leaf.sharding.is_fully_replicated


def test_a_run_steps(assembled):
  _, setup, first = assembled
  state = jax.tree.map(jax.numpy.copy, first)  # the step donates it
  for inputs in itertools.islice(setup.feed.inputs(0), 2):
    state, metrics = setup.step(state, setup.feed.pixels, inputs, setup.key)
  assert int(state.step) == 2
  assert np.isfinite(float(metrics['loss']))
  assert (_classifier(state) != _classifier(first)).all()


def test_the_seed_decides_the_first_parameters(assembled, config, opened):
  config.seed = 1
  setup = experiment.build(config)
  assert (_classifier(setup.init()) != _classifier(assembled[2])).all()
  assert setup.key != assembled[1].key
  assert (
    setup.sampler[0]['visible'] != assembled[1].sampler[0]['visible']
  ).any()


def test_three_streams_pass_three_times_the_images(config, opened):
  config.method = lupi_config.get_config().method
  assert experiment.build(config).images_per_step == 24


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('method.name', 'lupine', r"method.name 'lupine'; .*baseline, lupi"),
    ('method.triplet', 'hard', r'method.triplet .*hard'),
    ('method.modalities', ('thermal',), r'method.modalities .*thermal'),
    ('method.test_feature', 'logits', r'method.test_feature .*logits'),
    ('method.pooling', 'max', r'method.pooling .*max'),
    ('backbone.name', 'vgg', r"backbone 'vgg'; .*resnet50"),
    ('backbone.dtype', 'float16', r"backbone.dtype .*'float16'"),
    ('batch.identities', 3, r'6 images .* 8 devices'),
  ],
)
def test_options_are_refused_before_the_data_is_touched(
  config, opened, field, value, message
):
  config.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=message):
    experiment.build(config)
  assert not opened


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('batch.identities', 16, r'batch.identities=16'),
    ('batch.images_per_identity', 6, r'batch.images_per_identity=6'),
    ('dataset.residency', 'disk', r"dataset.residency .*'disk'"),
    ('dataset.validation_identities', 9, r'validation_identities=9 leaves'),
    ('dataset.validation_identities', -2, r'validation_identities=-2'),
    ('optimizer.name', 'lion', r"optimizer.name 'lion'; .*sgd, adam"),
    ('optimizer.name', 'adam', r'config.optimizer: .*(momentum|nesterov)'),
    ('schedule.warmup_by', 'day', r"warmup_by is 'day'"),
  ],
)
def test_what_the_config_gets_wrong_is_named(
  config, opened, field, value, message
):
  config.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=message):
    experiment.build(config)


def test_a_group_without_parameters_is_named(config, opened):
  config.optimizer.multipliers = {'spine': 0.1}
  setup = experiment.build(config)
  with pytest.raises(ValueError, match=r"'spine'; .*backbone, head"):
    setup.shapes()


def test_an_option_of_another_method_is_named(config):
  config.method.color_free_weight = 1.0
  with pytest.raises(ValueError, match=r'config.method: .*color_free_weight'):
    experiment.make_method(config, 4)


def test_no_training_needs_weights(config, opened):
  config.schedule.epochs = 0.0
  for path in ('', 'weights.npz'):
    config.backbone.pretrained = path
    with pytest.raises(ValueError, match=r'backbone.pretrained'):
      experiment.build(config)
  assert not opened


def test_every_player_with_a_loss_has_an_optimizer(config):
  losses = {'generator': print, 'backbone': print}
  method = Method(print, print, losses, print)
  config.schedule.warmup_epochs = 0.0
  optimizers = experiment.make_optimizers(config, method, 10)
  assert list(optimizers) == ['generator', 'backbone']
  params = {'w': np.float32([1.0, 2.0])}
  grads = {'w': np.float32([0.5, -0.5])}
  for optimizer in optimizers.values():
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    # Nesterov's first step: 1.9 (g + w p), at the base rate.
    expected = -0.05 * 1.9 * (grads['w'] + 5e-4 * params['w'])
    np.testing.assert_allclose(updates['w'], expected, rtol=1e-5)


def test_adam_is_the_other_optimizer(config):
  config.optimizer = {'name': 'adam', 'weight_decay': 5e-4, 'b1': 0.5}
  method = Method(print, print, {'backbone': print}, print)
  optimizer = experiment.make_optimizers(config, method, 10)['backbone']
  assert isinstance(optimizer, optax.GradientTransformation)
  params = {'w': np.float32([1.0, 2.0])}
  grads = {'w': np.float32([0.5, -0.5])}
  rate = optim.schedule(optim.Schedule(**config.schedule.to_dict()), 10)
  same = optim.adam(rate, b1=0.5, weight_decay=5e-4)
  expected, _ = same.update(grads, same.init(params), params)
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  np.testing.assert_allclose(updates['w'], expected['w'], rtol=1e-6)
  # Adam's first step has the length of the rate.
  np.testing.assert_allclose(updates['w'], [-0.005, 0.005], rtol=1e-3)


def test_held_out_identities_are_drawn_once_and_left_out(config):
  table = _table()
  records = table.records
  config.dataset.validation_identities = 5
  held_out = experiment.held_out(config, table)
  assert held_out == experiment.held_out(config, table)
  assert len(set(held_out)) == 5
  assert list(held_out) == sorted(held_out)
  assert set(held_out) <= set(records.identity.tolist())

  sampler = experiment.make_sampler(config, table)
  assert sampler.num_classes == IDENTITIES - 5
  rows = [sampler[t] for t in range(60)]
  drawn = {
    int(i)
    for r in rows
    for name in ('visible', 'infrared')
    for i in records.identity[r[name]]
  }
  assert drawn == set(records.identity.tolist()) - set(held_out)
  assert {int(x) for r in rows for x in r['label']} == set(range(7))

  draws = set()
  for seed in range(4):
    config.seed = seed
    draws.add(experiment.held_out(config, table))
  assert len(draws) > 1


def test_nobody_is_held_out_by_default(config):
  assert experiment.held_out(config, _table()) == ()
  assert experiment.make_sampler(config, _table()).num_classes == IDENTITIES


def test_validation_identities_that_the_dataset_names(config):
  config.dataset.validation_identities = -1
  with pytest.raises(ValueError, match='names no validation identities'):
    experiment.held_out(config, _table())
  table = _table()._replace(validation_identities=(10, 22))
  assert experiment.held_out(config, table) == (10, 22)
  sampler = experiment.make_sampler(config, table)
  assert sampler.num_classes == IDENTITIES - 2
