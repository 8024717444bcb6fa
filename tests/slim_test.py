"""A slim checkpoint evaluates to the same digits, and is for nothing else."""

import json

import jax
import jax.numpy as jnp
import pytest

from configs import baseline as baseline_config
from configs import lupi as lupi_config
from configs import xiv as xiv_config
from jaxreid import checkpoint, experiment, slim, train
from jaxreid.method import Aux
from jaxreid.methods import baseline


def toy(num_classes, stages, **options):
  """The baseline with a generator, which pictures need, and a teacher."""
  inner = baseline.baseline(num_classes, stages, **options)

  def init(key, batch):
    variables = inner.init(key, batch)
    params = {
      'generator': {'w': jnp.arange(3.0) + 0.1},
      'teacher': jax.tree.map(jnp.ones_like, variables['params']['backbone']),
      **variables['params'],
    }
    states = {'generator': {}, 'teacher': {}, **variables['model_state']}
    return {'params': params, 'model_state': states}

  def loss(variables, batch, key, outputs):
    return variables['params']['generator']['w'].sum(), Aux({})

  def views(variables, images, modality):
    return {
      'fake': images * variables['params']['generator']['w'][None, None, None]
    }

  def facts(variables, image_size):
    return [f'w is {float(variables["params"]["generator"]["w"][1]):.4f}']

  return inner._replace(
    init=init,
    losses={'generator': loss, **inner.losses},
    views=views,
    facts=facts,
  )


def open_run(config, data_dir, workdir):
  config.dataset.config = 'tiny'
  config.dataset.data_dir = str(data_dir)
  config.dataset.image_size = (24, 12)
  config.backbone.nonlocal_blocks = False
  config.evaluation.batch_size = 80
  run = train.open_run(config, workdir)
  # Single-shot across modalities, multi-shot within infrared and of gray.
  chosen = [run.protocols[i] for i in (0, 5, 7)]
  run = run._replace(
    protocols=[p._replace(trials=p.trials[:1]) for p in chosen]
  )
  with checkpoint.open_checkpoints(workdir) as checkpoints:
    name = {'name': config.dataset.name, 'config': 'tiny'}
    checkpoint.save(checkpoints, run.setup.init(), {}, name)
  return run


@pytest.fixture(scope='module')
def lupi_run(tiny_data_dir, tmp_path_factory):
  folder = tmp_path_factory.mktemp('slim') / 'lupi'
  return open_run(lupi_config.get_config(), tiny_data_dir, folder)


@pytest.fixture(scope='module')
def lupi_report(lupi_run):
  return train.evaluate(lupi_run)


def numbers(report):
  return {n: v for n, v in report.items() if n not in ('table', 'git_commit')}


def arrays(workdir):
  with checkpoint.open_checkpoints(workdir) as checkpoints:
    saved = checkpoint.saved_arrays(checkpoints, 0)
  return {'.'.join(path) for path in saved}


def test_lupi_without_its_z_stream(lupi_run, lupi_report):
  sizes = slim.slim(lupi_run.workdir)
  assert sizes.workdir == lupi_run.workdir / 'slim'
  assert 0 < sizes.after < sizes.before
  for name in arrays(sizes.workdir):
    assert 'intermediate_' not in name
    assert 'classifier' not in name
    assert not name.startswith('opt_state')
  assert any('intermediate_' in name for name in arrays(lupi_run.workdir))
  again = train.evaluate(lupi_run._replace(workdir=sizes.workdir))
  gray = 'infrared->gray, all, multi-shot'
  assert lupi_report['results'].keys() - again['results'].keys() == {gray}
  for name, result in again['results'].items():
    assert result == lupi_report['results'][name]
  shift = lupi_report['domain_shift']['visible-infrared']
  assert again['parameters_at_test'] == lupi_report['parameters_at_test']
  assert set(again['domain_shift']) == {'visible-infrared'}
  assert shift > 0
  assert 'Left out are searches of gray images' in again['table']


def test_lupi_with_what_gray_needs(lupi_run, lupi_report):
  sizes = slim.slim(lupi_run.workdir, gray=True)
  again = train.evaluate(lupi_run._replace(workdir=sizes.workdir))
  assert numbers(again) == numbers(lupi_report)
  assert again['table'] == lupi_report['table']


def test_a_slim_checkpoint_cannot_be_trained_or_made_slim(lupi_run):
  folder = slim.slim(lupi_run.workdir).workdir
  with pytest.raises(train.RunError, match='nothing to train with'):
    train.train(lupi_run._replace(workdir=folder))
  with pytest.raises(ValueError, match='is slim already'):
    slim.slim(folder)


def test_xiv_is_the_same_whole(tiny_data_dir, tmp_path):
  run = open_run(xiv_config.get_config(), tiny_data_dir, tmp_path / 'xiv')
  report = train.evaluate(run)
  folder = slim.slim(run.workdir).workdir
  again = train.evaluate(run._replace(workdir=folder))
  assert numbers(again) == numbers(report)
  assert len(report['facts']) > 1
  # X is made of what the test needs, so it can still be drawn.
  for drawn in ('examples', 'channels', 'ranked_lists'):
    pictures = [w / 'pictures' / f'{drawn}.png' for w in (run.workdir, folder)]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


def test_players_that_the_test_does_not_need_are_gone(
  tiny_data_dir, tmp_path, monkeypatch
):
  monkeypatch.setitem(experiment.METHODS, 'toy', toy)
  config = baseline_config.get_config()
  config.method.name = 'toy'
  run = open_run(config, tiny_data_dir, tmp_path / 'toy')
  report = train.evaluate(run)
  assert report['facts'] == ['w is 1.1000']
  assert (run.workdir / 'pictures' / 'examples.png').exists()
  folder = slim.slim(run.workdir, replace=True).workdir
  assert folder == run.workdir
  assert not (run.workdir / 'slim').exists()
  kept = arrays(folder)
  assert all(n == 'step' or n.split('.')[1] == 'backbone' for n in kept)
  (folder / 'pictures' / 'examples.png').unlink()
  # The command that evaluates opens it as any workdir.
  opened = train.open_run(config, folder, exists=True)
  again = train.evaluate(opened._replace(protocols=run.protocols))
  assert numbers(again) == numbers(report)
  # Fake images cannot be drawn any more; lists can.
  assert not (folder / 'pictures' / 'examples.png').exists()
  assert (folder / 'pictures' / 'ranked_lists.png').exists()


def test_an_unfinished_run_is_not_replaced(tmp_path):
  (tmp_path / 'config.json').write_text('{}')
  with pytest.raises(ValueError, match='may not be finished'):
    slim.slim(tmp_path, replace=True)


@pytest.mark.parametrize('there', ['nothing', 'config'])
def test_without_a_checkpoint_it_is_a_sentence(
  lupi_run, tmp_path, capsys, there
):
  if there == 'config':
    config = json.loads((lupi_run.workdir / 'config.json').read_text())
    (tmp_path / 'config.json').write_text(json.dumps(config))
  with pytest.raises(SystemExit) as stop:
    slim.main(['slim', str(tmp_path)])
  assert stop.value.code == 1
  said = {'nothing': 'holds no run', 'config': 'has no checkpoint to make slim'}
  error = capsys.readouterr().err
  assert error.startswith(f'error: {tmp_path}')
  assert said[there] in error


def test_the_command_prints_both_sizes(lupi_run, capsys):
  slim.main(['slim', str(lupi_run.workdir)])
  first, second = capsys.readouterr().out.splitlines()
  assert first.startswith('checkpoint 0: ')
  assert ' MB before, ' in first
  assert f'{lupi_run.workdir}/slim' in second
