"""Two stages: what is trained when, and which teachers are refused."""

import json
import pathlib
import shutil
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from configs import tsgan
from jaxreid import checkpoint, experiment, teacher, train, train_state
from jaxreid.evaluation.protocols import Protocol

TINY = {
  'dataset.config': 'tiny',
  'dataset.image_size': (24, 12),
  'batch.identities': 4,
  'batch.images_per_identity': 2,
  'method.padding': 1,
  'method.generator_width': 4,
  'method.generator_blocks': 1,
  'method.discriminator_width': 4,
  'evaluation.batch_size': 80,
  'evaluation.rerank': False,
  'schedule.epochs': 0.1,
  'teacher_run.schedule.epochs': 0.1,
}


@pytest.fixture(scope='module')
def config(tiny_data_dir) -> ml_collections.ConfigDict:
  config = tsgan.get_config()
  config.update_from_flattened_dict(TINY)
  config.dataset.data_dir = str(tiny_data_dir)
  return config


@pytest.fixture(scope='module')
def finished(config, tmp_path_factory) -> pathlib.Path:
  """The workdir of a student that went through both stages."""
  workdir = tmp_path_factory.mktemp('runs') / 'student'
  teacher.train(teacher.open_run(config, workdir))
  return workdir


def _read(workdir, *names):
  """Arrays of a checkpoint by the end of their paths."""
  with checkpoint.open_checkpoints(workdir) as checkpoints:
    step = checkpoints.latest_step()
    paths = {
      path
      for path in checkpoint.saved_arrays(checkpoints, step)
      if path[: len(names)] == names
    }
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    read = checkpoint.restore_part(checkpoints, step, paths, place)
  for name in names:
    read = read[name]
  return read


def _same(a, b):
  return jax.tree.structure(a) == jax.tree.structure(b) and all(
    np.array_equal(x, y)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def test_both_stages(finished):
  first = finished / 'teacher'
  report = json.loads((first / 'results.json').read_text())
  assert report['results']
  assert all(
    name.startswith('infrared->infrared') for name in report['results']
  )
  saved = json.loads((first / 'config.json').read_text())
  assert saved['method']['modalities'] == ['infrared']
  # The student has the teacher's first stages, bit for bit, and no others.
  for part in ('params', 'model_state'):
    theirs = _read(first, part, 'backbone', 'backbone')
    ours = _read(finished, part, 'teacher')
    assert set(ours) == {'stage0', 'stage1', 'stage2', 'stage3'}
    assert _same(ours, {name: theirs[name] for name in ours})


def test_a_finished_teacher_is_used_and_a_resumed_student_needs_none(
  config, finished, tmp_path, capsys
):
  given = config.copy_and_resolve_references()
  given.teacher = str(finished / 'teacher')
  workdir = tmp_path / 'student'
  teacher.train(teacher.open_run(given, workdir))
  assert not (workdir / 'teacher').exists()
  assert 'first stage' not in capsys.readouterr().out
  # The same teacher, the same student.
  assert _same(_read(workdir, 'params'), _read(finished, 'params'))
  given.teacher = str(tmp_path / 'gone')
  moved = tmp_path / 'moved'
  shutil.copytree(workdir, moved)
  saved = json.loads((moved / 'config.json').read_text())
  saved['teacher'] = given.teacher
  (moved / 'config.json').write_text(json.dumps(saved))
  run = teacher.open_run(given, moved)
  state = teacher.train(run)
  assert int(state.step) == run.setup.total_steps
  assert 'going on from' in capsys.readouterr().out
  report = train.evaluate(train.open_run(given, moved, exists=True))
  assert any(name.startswith('infrared->visible') for name in report['results'])


def test_a_finished_first_stage_is_not_repeated(
  config, finished, tmp_path, capsys
):
  workdir = tmp_path / 'student'
  shutil.copytree(finished / 'teacher', workdir / 'teacher')
  run = teacher.open_run(config, workdir)
  teacher.train(run)
  out = capsys.readouterr().out
  assert f'the teacher in {workdir}/teacher is finished' in out
  assert _same(_read(workdir, 'params'), _read(finished, 'params'))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'dataset.config': 'small'}, 'another dataset: synthetic_reid/tiny'),
    ({'dataset.image_size': (48, 24)}, 'another image size: 24x12'),
    ({'backbone.name': 'resnet18'}, 'another backbone: .*resnet_small'),
    ({'backbone.last_stride': 2}, 'another backbone'),
    (
      {'teacher_run.method.modalities': ('visible',)},
      'another method: baseline on infrared images, .*visible images',
    ),
    ({'dataset.validation_identities': 2}, 'another validation identities: 0'),
  ],
)
def test_another_teacher_is_refused(
  config, finished, tmp_path, changes, message
):
  wrong = config.copy_and_resolve_references()
  wrong.update_from_flattened_dict(changes)
  wrong.teacher = str(finished / 'teacher')
  with pytest.raises(ValueError, match=f'^teacher: .*{message}') as error:
    teacher.open_run(wrong, tmp_path / 'student')
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'student').exists()


def test_a_teacher_that_is_not_there_or_not_done(config, finished, tmp_path):
  wrong = config.copy_and_resolve_references()
  wrong.teacher = str(tmp_path / 'nowhere')
  with pytest.raises(ValueError, match='nowhere holds no run'):
    teacher.open_run(wrong, tmp_path / 'student')
  wrong.teacher = str(finished)
  with pytest.raises(ValueError, match='another method: tsgan on'):
    teacher.open_run(wrong, tmp_path / 'student')
  copy = tmp_path / 'copy'
  shutil.copytree(finished / 'teacher', copy)
  saved = json.loads((copy / 'config.json').read_text())
  saved['schedule']['epochs'] = 5.0
  (copy / 'config.json').write_text(json.dumps(saved))
  wrong.teacher = str(copy)
  with pytest.raises(ValueError, match=r'not finished \(step 4 of \d+\)'):
    teacher.open_run(wrong, tmp_path / 'student')
  shutil.rmtree(copy / 'checkpoints')
  with pytest.raises(ValueError, match='copy has no checkpoint'):
    teacher.open_run(wrong, tmp_path / 'student')
  assert not (tmp_path / 'student').exists()


@pytest.mark.parametrize('dataset', ['regdb', 'npu_reid'])
def test_a_teacher_without_a_search_within_its_modality(
  dataset, tmp_path, monkeypatch, capsys
):
  both = tsgan.get_config(f'dataset={dataset}')
  across = Protocol('i->v', 'infrared', 'visible', [], False)
  setup = types.SimpleNamespace(total_steps=3)
  done = []

  def open_run(config, folder):
    return train.Run(config, folder, setup, None, [across])

  def last_step(folder):
    return 3 if done else None

  monkeypatch.setattr(train, 'open_run', open_run)
  monkeypatch.setattr(train, 'train', done.append)
  monkeypatch.setattr(train, 'evaluate', lambda run: pytest.fail('evaluated'))
  monkeypatch.setattr(teacher, '_last_step', last_step)
  for said in ('has no search within infrared', 'is finished'):
    teacher._train_teacher(both, tmp_path)
    assert said in capsys.readouterr().out
  assert len(done) == 1


def test_shapes_that_do_not_fit_are_refused(config, finished):
  other = config.copy_and_resolve_references()
  other.backbone.name = 'resnet18'
  method = experiment.make_method(other, 5)
  optimizers = experiment.make_optimizers(other, method, 10)
  batch = {
    'visible': jnp.zeros((2, 24, 12, 3), jnp.uint8),
    'infrared': jnp.zeros((2, 24, 12, 3), jnp.uint8),
    'label': jnp.arange(2, dtype=jnp.int32),
  }
  create = jax.jit(
    lambda: train_state.create(method, optimizers, jax.random.key(0), batch),
    compiler_options={'xla_backend_optimization_level': 0},
  )
  with pytest.raises(ValueError, match=r'another model|other shapes'):
    teacher.fill(create(), finished / 'teacher')


def test_runs_of_one_stage_are_as_they_were(config, tmp_path, monkeypatch):
  one = tsgan.get_config('ablation=backbone')
  seen = []

  def open_run(*args):
    seen.append(args)
    return train.Run(one, tmp_path, None, None, [])

  monkeypatch.setattr(train, 'open_run', open_run)
  monkeypatch.setattr(train, 'train', lambda run: seen.append(run))
  teacher.open_run(one, tmp_path)
  assert seen == [(one, tmp_path, False)]
