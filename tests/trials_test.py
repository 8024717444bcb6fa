"""Several splits: a model each, their mean, none repeated, none leaking."""

import json
import pathlib
import shutil
import statistics

import ml_collections
import pytest

from configs import tsgan
from jaxreid import trials
from tfds_builders import prepare

ROOT = pathlib.Path(__file__).parents[1]
TRIALS = ('trial_1', 'trial_2')


@pytest.fixture(scope='module')
def flags(tmp_path_factory) -> list[str]:
  data_dir = tmp_path_factory.mktemp('regdb')
  raw = ROOT / 'tfds_builders' / 'regdb' / 'dummy_data'
  for trial in TRIALS:
    prepare.prepare('regdb', data_dir, trial, raw)
  return [
    f'--config.dataset.data_dir={data_dir}',
    '--config.dataset.image_size=(24, 12)',
    '--config.batch.identities=2',
    '--config.batch.images_per_identity=2',
    '--config.backbone.name=resnet_small',
    '--config.backbone.nonlocal_blocks=False',
    '--config.method.padding=1',
    '--config.schedule.epochs=3.0',
    '--config.evaluation.batch_size=8',
  ]


def _all():
  return [
    f'--config={ROOT}/configs/lupi.py:dataset=regdb,trial=all,ablation=agw',
    f'--config.dataset.trials={TRIALS}',
  ]


@pytest.fixture(scope='module')
def joined(flags, start, finish, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'all'
  child = start(*_all(), *flags, f'--workdir={workdir}')
  finished = finish(child, workdir)
  assert finished.returncode == 0, finished.stderr
  return finished


def _results(folder):
  return json.loads((folder / 'results.json').read_text())


def test_every_trial_has_the_teacher_of_its_split():
  config = tsgan.get_config('dataset=regdb,trial=all')
  assert trials._part(config, 'trial_2').teacher == ''
  config.teacher = '/teachers'
  parts = [trials._part(config, name) for name in TRIALS]
  assert [part.teacher for part in parts] == [f'/teachers/{t}' for t in TRIALS]


def test_the_mean_of_all_trials(joined):
  report = _results(joined.workdir)
  parts = [_results(joined.workdir / trial)['results'] for trial in TRIALS]
  assert list(report['trials']) == [*TRIALS]
  assert list(report['results']) == ['infrared->visible', 'visible->infrared']
  for name, result in report['results'].items():
    values = [part[name]['mAP'] for part in parts]
    assert result['mAP'] == pytest.approx(statistics.mean(values))
    assert result['mAP_std'] == pytest.approx(statistics.stdev(values))
    assert result['trials'] == 2
  table = (joined.workdir / 'results.md').read_text()
  assert 'a model for each' in table
  assert table.splitlines()[2] in joined.stdout


def test_the_trials_have_one_report(joined):
  page = (joined.workdir / 'report.html').read_text()
  assert 'Mean of 2 splits' in page
  card = (joined.workdir / 'MODEL_CARD.md').read_text()
  assert 'RegDB' in card and 'Not evaluated' not in card
  assert 'warning' not in joined.stderr
  for trial in TRIALS:
    assert (joined.workdir / trial / 'report.html').exists()


def test_every_trial_has_a_model_of_its_own(joined):
  configs = [
    json.loads((joined.workdir / trial / 'config.json').read_text())['dataset']
    for trial in TRIALS
  ]
  assert [dataset['config'] for dataset in configs] == [*TRIALS]
  assert all(dataset['trials'] == [] for dataset in configs)
  assert len(set(_results(joined.workdir)['dataset_fingerprint'])) == 2


def test_finished_trials_are_not_repeated(joined, flags, start, finish):
  files = [joined.workdir / trial / 'results.json' for trial in TRIALS]
  before = [path.stat().st_mtime_ns for path in files]
  (joined.workdir / 'results.json').unlink()
  files[1].unlink()  # as if the second had been killed before its end
  child = start(*_all(), *flags, f'--workdir={joined.workdir}')
  again = finish(child)
  assert again.returncode == 0, again.stderr
  assert files[0].stat().st_mtime_ns == before[0]
  assert files[1].exists()
  assert 'going on from the checkpoint' in again.stdout
  assert 'a model for each' in again.stdout


def test_results_of_a_run_on_its_way_do_not_end_it(joined, tmp_path):
  folder = tmp_path / 'trial_1'
  shutil.copytree(joined.workdir / 'trial_1', folder)
  saved = json.loads((folder / 'config.json').read_text())
  config = ml_collections.ConfigDict(saved)
  report = _results(folder)
  steps = report['checkpoint']['step']
  assert trials._finished(folder, config, steps) == report['results']
  # Killed before its end, and evaluated with --mode=evaluate.
  assert trials._finished(folder, config, steps + 1) is None
  sentence = trials._unfinished(
    tmp_path, {'trial_1': config}, {'trial_1': steps + 1}
  )
  assert f'trial_1 (step {steps} of {steps + 1})' in sentence
  assert not trials._unfinished(
    tmp_path, {'trial_1': config}, {'trial_1': steps}
  )
  # Then trained to the end, and killed before it was evaluated again.
  report['checkpoint']['step'] -= 1
  (folder / 'results.json').write_text(json.dumps(report))
  assert trials._finished(folder, config, steps) is None


def test_evaluating_another_trial_is_refused(joined, flags, start, finish):
  child = start(
    f'--config={ROOT}/configs/lupi.py:dataset=regdb,trial=2,ablation=agw',
    *flags,
    f'--workdir={joined.workdir}/trial_1',
    '--mode=evaluate',
  )
  refused = finish(child)
  assert refused.returncode == 1
  assert refused.stderr.startswith('error: ')
  assert 'a trial tests people whom the models of other' in refused.stderr


def test_a_missing_trial_shows_before_training(
  joined, flags, start, finish, tmp_path
):
  names = "('trial_1','trial_3')"
  child = start(
    *_all()[:1],
    f'--config.dataset.trials={names}',
    *flags,
    f'--workdir={tmp_path}/all',
  )
  refused = finish(child)
  assert refused.returncode == 1
  assert 'regdb/trial_3' in refused.stderr
  assert 'step 1' not in refused.stdout
