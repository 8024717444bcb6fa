"""The loop's promises, with a step that costs nothing."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import lupi
from jaxreid import checkpoint, experiment, results, sharding, train
from jaxreid.data.source import Table
from jaxreid.train_state import TrainState


@pytest.fixture(scope='module')
def opened(tiny_data_dir, tmp_path_factory):
  config = lupi.get_config()
  config.dataset.config = 'tiny'
  config.dataset.data_dir = str(tiny_data_dir)
  config.dataset.image_size = (24, 12)
  config.log_every = 5
  config.checkpoint_every = 3
  return train.open_run(config, tmp_path_factory.mktemp('opened'))


class Steps:
  """A step that counts; `events` says what happens at which."""

  def __init__(self, mesh, **events):
    self.events = events
    self.place = sharding.replicated(mesh)
    self.rows = []

  def init(self) -> TrainState:
    state = TrainState(
      step=jnp.zeros((), jnp.int32),
      params={'net': {'kernel': jnp.zeros(4)}},
      model_state={'net': {}},
      opt_state={'net': ()},
    )
    return jax.device_put(state, self.place)

  def shapes(self) -> TrainState:
    return self.init()

  def __call__(self, state, pixels, inputs, key):
    step = int(state.step) + 1
    self.rows.append(np.asarray(inputs['label']))
    value = np.inf if step == self.events.get('infinite_at') else 1.0
    loss = np.nan if step == self.events.get('nan_at') else 1.0 / step
    if step == self.events.get('terminated_at'):
      os.kill(os.getpid(), signal.SIGTERM)
    kernel = state.params['net']['kernel'] + value
    state = state.replace(
      step=state.step + 1, params={'net': {'kernel': kernel}}
    )
    return state, {'loss': jnp.float32(loss), 'accuracy': jnp.float32(0.5)}


def make_run(opened, workdir, total=10, validation=0, **events) -> train.Run:
  config = opened.config.copy_and_resolve_references()
  config.dataset.validation_identities = validation
  config.checkpoint_every = events.pop('checkpoint_every', 3)
  config.log_every = events.pop('log_every', 5)
  steps = Steps(opened.setup.mesh, **events)
  setup = opened.setup._replace(
    init=steps.init, shapes=steps.shapes, step=steps, total_steps=total
  )
  return opened._replace(config=config, workdir=workdir, setup=setup)


def logged(workdir) -> list[dict]:
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def saved_steps(workdir, keep_best=False) -> list[int]:
  with checkpoint.open_checkpoints(workdir, keep_best) as checkpoints:
    return sorted(checkpoints.all_steps())


def test_logs_the_first_the_last_and_every_nth_step(opened, tmp_path):
  state = train.train(make_run(opened, tmp_path, total=12))
  assert int(state.step) == 12
  lines = logged(tmp_path)
  assert [line['step'] for line in lines] == [1, 5, 10, 12]
  # The step's own numbers, no running means.
  for line in lines:
    assert line['loss'] == np.float32(1.0 / line['step'])
  assert saved_steps(tmp_path) == [12]


def test_a_step_that_is_not_finite_ends_the_run(opened, tmp_path):
  run = make_run(opened, tmp_path, nan_at=8)
  with pytest.raises(train.NonFiniteLossError) as error:
    train.train(run)
  text = str(error.value)
  assert text.startswith('step 8 is not finite: accuracy 0.5, loss nan')
  assert f'the last good checkpoint is {tmp_path}/checkpoints/6;' in text
  assert [line['step'] for line in logged(tmp_path)] == [1, 5]
  assert saved_steps(tmp_path) == [6]


def test_a_step_between_two_looks_is_not_missed(opened, tmp_path):
  run = make_run(opened, tmp_path, nan_at=4, checkpoint_every=10, log_every=10)
  with pytest.raises(train.NonFiniteLossError, match='step 4 is') as error:
    train.train(run)
  assert 'no checkpoint was saved yet' in str(error.value)
  assert saved_steps(tmp_path) == []


def test_parameters_that_are_not_finite_are_never_saved(opened, tmp_path):
  # The loss of a step is that of the parameters before it.
  run = make_run(opened, tmp_path, infinite_at=6)
  with pytest.raises(train.NonFiniteLossError, match='step 6 left') as error:
    train.train(run)
  assert f'the last good checkpoint is {tmp_path}/checkpoints/3;' in str(
    error.value
  )
  assert saved_steps(tmp_path) == [3]


def test_sigterm_saves_and_the_next_start_goes_on(opened, tmp_path, capsys):
  before = signal.getsignal(signal.SIGTERM)
  whole = make_run(opened, tmp_path / 'whole')
  train.train(whole)
  run = make_run(opened, tmp_path / 'cut', terminated_at=7)
  with pytest.raises(SystemExit) as stop:
    train.train(run)
  assert stop.value.code == 0
  assert 'saved step 7 on SIGTERM' in capsys.readouterr().out
  assert signal.getsignal(signal.SIGTERM) == before
  assert saved_steps(tmp_path / 'cut') == [7]

  again = make_run(opened, tmp_path / 'cut')
  train.train(again)
  assert 'going on from the checkpoint of step 7' in capsys.readouterr().out
  assert logged(tmp_path / 'cut') == logged(tmp_path / 'whole')
  # The data, too, goes on where it stopped.
  rows = run.setup.step.rows + again.setup.step.rows
  np.testing.assert_array_equal(rows, whole.setup.step.rows)


@pytest.mark.parametrize('terminated_at', [6, 7])
def test_sigterm_validates_neither_more_nor_less(
  opened, tmp_path, monkeypatch, terminated_at
):
  judged = {3: 20.0, 6: 90.0, 9: 30.0, 10: 40.0}

  def evaluate_validation(config, setup, state):
    return {'validation_mAP': judged[int(state.step)]}

  monkeypatch.setattr(results, 'evaluate_validation', evaluate_validation)
  whole = make_run(opened, tmp_path / 'whole', validation=2)
  train.train(whole)
  cut = make_run(
    opened, tmp_path / 'cut', validation=2, terminated_at=terminated_at
  )
  with pytest.raises(SystemExit):
    train.train(cut)
  train.train(make_run(opened, tmp_path / 'cut', validation=2))
  assert logged(tmp_path / 'cut') == logged(tmp_path / 'whole')
  for folder in ('whole', 'cut'):
    assert saved_steps(tmp_path / folder, keep_best=True) == [6, 10]


def test_a_finished_run_is_not_trained_again(opened, tmp_path):
  train.train(make_run(opened, tmp_path))
  before = (tmp_path / 'metrics.jsonl').read_bytes()
  again = make_run(opened, tmp_path)
  state = train.train(again)
  assert int(state.step) == 10
  assert not again.setup.step.rows
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before


def test_nothing_to_train_still_leaves_a_checkpoint(opened, tmp_path):
  train.train(make_run(opened, tmp_path, total=0))
  assert saved_steps(tmp_path) == [0]


def test_evaluating_without_a_checkpoint_is_a_sentence(opened, tmp_path):
  with pytest.raises(train.RunError, match='no checkpoint to evaluate'):
    train.evaluate(make_run(opened, tmp_path))


def test_evaluating_another_model_is_a_sentence(opened, tmp_path):
  train.train(make_run(opened, tmp_path))
  with pytest.raises(train.RunError, match='another model') as error:
    train.evaluate(opened._replace(workdir=tmp_path))
  assert f'{tmp_path}/checkpoints' in str(error.value)


def test_a_checkpoint_of_another_split_is_refused(opened, tmp_path):
  run = make_run(opened, tmp_path, total=3)
  state = train.train(run)
  run.config.dataset.config = 'small'  # as if the folder had been copied
  for act in (train.train, train.evaluate):
    with pytest.raises(train.RunError, match=r'was trained on .*/tiny, not'):
      act(run)
  assert int(state.step) == 3


def test_held_out_people_are_never_drawn(opened):
  config = opened.config.copy_and_resolve_references()
  config.dataset.validation_identities = 3
  config.batch.identities = 5
  table = opened.setup.train
  records = table.records
  held = experiment.held_out(config, table)
  assert len(set(held)) == 3
  sampler = experiment.make_sampler(config, table)
  drawn: set[int] = set()
  for step in range(100):
    rows = sampler[step]
    for modality in ('visible', 'infrared'):
      drawn |= set(records.identity[rows[modality]].tolist())
  assert drawn == set(range(1, 9)) - set(held)
  # Another seed holds out others; the same seed the same.
  assert experiment.held_out(config, table) == held
  config.seed = 1
  assert experiment.held_out(config, table) != held


def test_validation_looks_at_held_out_people_alone(opened):
  config = opened.config.copy_and_resolve_references()
  config.dataset.validation_identities = 3
  config.batch.identities = 5
  config.evaluation.batch_size = 50  # not a multiple of the devices
  table = opened.setup.train
  held = experiment.held_out(config, table)

  def embed(variables, images, modality):
    # The person's number, painted over the images below.
    return images[:, 0, 0, :1, None].astype(jnp.float32)

  painted = np.zeros_like(table.images)
  painted += table.records.identity[:, None, None, None].astype(np.uint8)
  setup = opened.setup._replace(
    train=Table(painted, table.records, ''),
    method=opened.setup.method._replace(embed=embed),
  )
  state = Steps(setup.mesh).init()
  metrics = results.evaluate_validation(config, setup, state)
  # Equal colours are equal people, so the search is perfect.
  assert metrics == {'validation_rank1': 100.0, 'validation_mAP': 100.0}
  painted[~np.isin(table.records.identity, held)] = 0
  same = results.evaluate_validation(config, setup, state)
  assert same == metrics
  painted[np.isin(table.records.identity, held)] = 0
  worse = results.evaluate_validation(config, setup, state)
  assert worse['validation_rank1'] < 60


def test_embeddings_that_are_not_finite_are_a_sentence(opened, tmp_path):
  def embed(variables, images, modality):
    return jnp.full((len(images), 1, 3), jnp.nan)

  run = make_run(opened, tmp_path, total=3)
  train.train(run)
  method = run.setup.method._replace(embed=embed)
  run = run._replace(setup=run.setup._replace(method=method))
  with pytest.raises(train.RunError, match='hold NaN'):
    train.evaluate(run)
