"""Tables of the papers: read, planned, run and put beside the figures."""

import json
import math
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

import pytest

from jaxreid import published, table_runs, table_text, tables

CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'


@pytest.fixture(scope='module')
def all_tables():
  return published.read_tables()


def make_plan(out, **changes):
  plan = table_runs.Plan('synthetic_reid', '', 'short', 2, out, CONFIGS)
  return plan._replace(**changes)


def report(rank1, mean_ap, pretrained=''):
  found = {'rank1': rank1, 'mAP': mean_ap}
  results = {
    'infrared->visible, all, single-shot': found,
    'infrared->visible, all, multi-shot': {k: v + 1 for k, v in found.items()},
  }
  return {
    'results': results,
    'config': {'backbone': {'pretrained': pretrained}, 'weights': ''},
  }


def test_figures_are_those_of_the_papers(all_tables):
  """Typed again from the papers."""
  wanted = [
    ('lupi_table4', 'RandG + Aug', 'sysu_mm01', (71.08, 66.76, 77.23, 61.53)),
    ('lupi_table5', 'Color Loss', 'sysu_mm01', (53.97, 89.32, 51.68)),
    (
      'xiv_table4',
      'DenseNet-121: Baseline+X',
      'sysu_mm01',
      (41.29, 82.41, 91.08, 41.09),
    ),
    ('xiv_table1', 'Our method (XIV)', 'regdb', (62.21, 83.13, 91.72, 60.18)),
    ('tsgan_table2', 'Backbone', 'sysu_mm01', (41.4, 77.0, 85.0, 39.9)),
  ]
  for table, name, dataset, figures in wanted:
    (row,) = (r for r in all_tables[table].rows if r.name == name)
    assert row.published[dataset] == figures


def test_every_row_has_a_config_that_takes_its_argument(all_tables):
  import importlib

  for table in all_tables.values():
    for row in table.rows:
      module = importlib.import_module(f'configs.{row.config[:-3]}')
      for argument in filter(None, (row.argument, row.teacher)):
        module.get_config(argument)
      if not row.argument:
        module.get_config()


def test_all_four_papers_have_tables(all_tables):
  assert {name.rpartition('_')[0] for name in all_tables} == {
    'dual_swin',
    'lupi',
    'tsgan',
    'xiv',
  }


def test_a_wrong_count_of_figures_is_named(tmp_path):
  text = (published.FOLDER / 'xiv.toml').read_text()
  (tmp_path / 'bad.toml').write_text(text.replace('92.04, 44.22', '92.04', 1))
  with pytest.raises(ValueError, match='3 published figures for 4 columns'):
    published.read_tables(tmp_path)


def test_runs_are_shared_and_named_by_what_they_are(all_tables, tmp_path):
  plan = make_plan(tmp_path, seeds=3)
  four = table_runs.plan_runs(all_tables['lupi_table4'].rows, plan)
  three = table_runs.plan_runs(all_tables['lupi_table3'].rows, plan)
  assert len(four) == 21 and len({run.folder for run in four}) == 21
  assert len({r.folder for r in four} & {r.folder for r in three}) == 12
  longer = make_plan(tmp_path, seeds=3, schedule='default')
  other = table_runs.plan_runs(all_tables['lupi_table4'].rows, longer)
  same = {r.folder for r in four} & {r.folder for r in other}
  assert all('pretrained' in folder.name for folder in same)


def test_students_share_a_teacher_that_comes_first(all_tables, tmp_path):
  plan = make_plan(tmp_path, seeds=2)
  runs = table_runs.plan_runs(all_tables['tsgan_table2'].rows, plan)
  students = [run for run in runs if run.after]
  assert len(runs) == 9 and len(students) == 6
  (teacher,) = {run.after for run in students}
  names = [run.folder for run in runs]
  first = min(names.index(run.folder) for run in students)
  assert names.index(teacher) < first
  assert all(f'--config.teacher={teacher}' in run.command for run in students)


def test_another_protocol_is_forced_on_the_rendered_set(all_tables, tmp_path):
  parse = tables._parser().parse_args
  options = parse(['x', '--dataset=synthetic_reid', f'--out={tmp_path}'])
  forced = {
    name: tables.make_plan(all_tables[name], options, ()).layout
    for name in ('lupi_table2', 'lupi_table4', 'dual_swin_table4')
  }
  assert forced == {
    'lupi_table2': 'regdb',
    'lupi_table4': '',
    'dual_swin_table4': 'npu_reid',
  }


def test_mean_and_deviation_beside_the_figure(all_tables, tmp_path):
  table, plan = all_tables['lupi_table4'], make_plan(tmp_path)
  runs = {
    row.name: [table_runs.plan_row(row, plan, s)[-1] for s in range(2)]
    for row in table.rows
  }
  for run, rank1 in zip(runs['RandG'], (20.0, 23.0), strict=True):
    run.folder.mkdir(parents=True)
    text = json.dumps(report(rank1, 30.0))
    (run.folder / 'results.json').write_text(text)
  shown = table_text.compare(table, runs, plan, {'Pre-trained': 'no weights'})
  (row,) = (r for r in shown['rows'] if r['name'] == 'RandG')
  assert row['seeds'] == 2 and not row['comparable']
  assert row['ours'][0]['mean'] == 21.5
  assert row['ours'][0]['std'] == pytest.approx(statistics.stdev([20, 23]))
  assert row['ours'][2]['values'] == [21.0, 24.0]
  text = table_text.markdown(shown)
  (line,) = (ln for ln in text.splitlines() if 'ablation=random_gray' in ln)
  assert '21.5 ± 2.1 (64.5)' in line
  assert 'other data (synthetic_reid), short schedule' in line
  assert 'not run: no weights' in text
  json.loads(json.dumps(shown, allow_nan=False))


@pytest.mark.parametrize(
  ('flags', 'comparable'),
  [
    ((), ['Baseline']),
    (
      ('--config.backbone.pretrained=FILE', '--config.dataset.data_dir=/data'),
      ['Baseline'],
    ),
    (('--config.backbone.pretrained=FILE', '--config.batch.identities=4'), []),
  ],
)
def test_the_papers_own_setting_is_comparable(
  all_tables, tmp_path, flags, comparable
):
  table = all_tables['lupi_table4']
  plan = make_plan(tmp_path, dataset='sysu_mm01', schedule='default', seeds=1)
  plan = plan._replace(flags=flags)
  runs = {r.name: table_runs.plan_row(r, plan, 0) for r in table.rows}
  (run,) = runs['Baseline']
  run.folder.mkdir(parents=True)
  text = json.dumps(report(49.0, 41.0, pretrained='resnet50.safetensors'))
  (run.folder / 'results.json').write_text(text)
  shown = table_text.compare(table, runs, plan, {})
  assert [r['name'] for r in shown['rows'] if r['comparable']] == comparable
  assert 'searched infrared->infrared' in table_text.markdown(shown)


def test_figures_of_another_pair_and_after_re_ranking(all_tables):
  columns = all_tables['lupi_table4'].columns['sysu_mm01']
  row = all_tables['lupi_table4'].rows[-1]
  results = {'infrared->infrared, all, multi-shot': {'rank1': 9.0, 'mAP': 8.0}}
  found = [published.find_figure(results, column, row) for column in columns]
  assert math.isnan(found[0]) and found[2:] == [9.0, 8.0]
  results = {
    f'{columns[0].search}, sum over modalities': {'rank1': 1.0},
    f'{columns[0].search}, re-ranked': {'rank1': 2.0},
    columns[0].search: {'rank1': 3.0},
  }
  plain, again = all_tables['tsgan_table1'].rows
  assert published.find_figure(results, columns[0], plain) == 1.0
  assert published.find_figure(results, columns[0], again) == 2.0


def fake_run(folder, code, after=None):
  return table_runs.Run(folder, (sys.executable, '-c', code), after)


def write_results(folder):
  return (
    f'import pathlib; pathlib.Path({str(folder)!r}, "results.json").touch()'
  )


def test_finished_runs_are_skipped_and_failures_told(tmp_path):
  a, b, c, d = (tmp_path / name for name in 'abcd')
  a.mkdir()
  (a / 'results.json').touch()
  runs = [
    fake_run(a, 'raise SystemExit("must not run")'),
    fake_run(b, write_results(b)),
    fake_run(c, 'raise SystemExit("error: no such data")'),
    fake_run(d, write_results(d), after=c),
  ]
  failed = table_runs.run_all(runs, parallel=2)
  assert set(failed) == {c, d}
  assert failed[c] == 'status 1: error: no such data'
  assert 'teacher' in failed[d] and not d.exists()
  assert not (a / 'log.txt').exists()
  assert table_runs.run_all(runs[:2]) == {}


def test_what_the_user_overrides_comes_last(all_tables, tmp_path):
  mine = '--config.schedule.epochs=0.5'
  plan = make_plan(tmp_path, flags=(mine,), layout='npu_reid')
  for row in all_tables['dual_swin_table6'].rows:
    (run,) = table_runs.plan_row(row, plan, 0)
    given = [x for x in run.command if x.startswith('--config.schedule.epochs')]
    assert len(given) == 2 and given[-1] == mine


def test_a_run_is_not_started_twice(tmp_path):
  """Not even if the command that started it was killed and it goes on."""
  run = fake_run(tmp_path / 'run', write_results(tmp_path / 'run'))
  run.folder.mkdir()
  with (run.folder / 'log.txt').open('a') as log:
    assert table_runs._take(log)
    orphan = subprocess.Popen(
      [sys.executable, '-c', 'input()'], stdin=subprocess.PIPE, stdout=log
    )
  try:
    failed = table_runs.run_all([run])
  finally:
    orphan.communicate(b'')
  assert 'another command is at it' in failed[run.folder]
  assert table_runs.run_all([run]) == {}


def test_the_forecast_is_of_what_is_missing(all_tables, tmp_path):
  plan, rows = make_plan(tmp_path), all_tables['lupi_table5'].rows
  assert '8 to do, about 34 minutes' in tables._forecast(rows, plan)
  for row in rows[1:]:
    folder = table_runs.plan_row(row, plan, 1)[-1].folder
    folder.mkdir()
    (folder / 'results.json').touch()
  assert '5 to do, about 21 minutes' in tables._forecast(rows, plan)


@pytest.mark.parametrize('number', ['SIGINT', 'SIGTERM', 'SIGHUP'])
def test_a_signal_lets_the_running_ones_save(tmp_path, number):
  """A terminal sends SIGINT to all processes of its foreground group."""
  saves = (
    'import pathlib, signal, sys, time\n'
    'def save(*_):\n'
    "  pathlib.Path('saved').touch()\n"
    '  raise SystemExit(0)\n'
    'signal.signal(signal.SIGTERM, save)\n'
    'signal.signal(signal.SIGINT, lambda *_: sys.exit(1))\n'
    "pathlib.Path('running').touch()\n"
    'time.sleep(60)\n'
  )
  code = (
    'import pathlib, signal, sys\n'
    'from jaxreid import table_runs\n'
    # Where the tests run in the background it is ignored, and inherited so.
    'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
    f'command = (sys.executable, "-c", {saves!r})\n'
    "table_runs.run_all([table_runs.Run(pathlib.Path('run'), command)])\n"
  )
  root = str(CONFIGS.parent)
  table = subprocess.Popen(
    [sys.executable, '-c', code],
    cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': root},
    stderr=subprocess.DEVNULL,
    start_new_session=True,
  )
  try:
    for _ in range(600):
      if (tmp_path / 'running').exists():
        break
      time.sleep(0.05)
    os.killpg(table.pid, getattr(signal, number))
    assert table.wait(30) != 0
  finally:
    table.kill()
    table.wait()
  assert (tmp_path / 'saved').exists()


def test_mistakes_are_sentences(capsys, tmp_path):
  for arguments, sentence in (
    (['lupi_table9'], 'there is no table'),
    (['lupi_table4', '--rows=8'], 'has the rows 1 to 7'),
    (['lupi_table4', '--seeds=0'], '1 or more'),
    (['lupi_table4', '--no-run', '--config.seed=3'], 'give --seeds'),
    (['lupi_table4', '--dataset=regdb', '--no-run'], 'no columns for regdb'),
    (['lupi_table4', f'--configs={tmp_path}'], 'config files are not in'),
  ):
    with pytest.raises(SystemExit) as ended:
      tables.main(arguments)
    assert ended.value.code == 1
    assert sentence in capsys.readouterr().err


def test_list_and_print_need_no_run(capsys, tmp_path):
  tables.main(['--list'])
  assert 'xiv_table5' in capsys.readouterr().out
  tables.main(
    ['xiv_table5', '--no-run', '--dataset=synthetic_reid', f'--out={tmp_path}']
  )
  assert 'not run yet' in capsys.readouterr().out
  written = json.loads((tmp_path / 'xiv_table5.json').read_text())
  assert len(written['rows']) == 5
  assert (tmp_path / 'xiv_table5.md').exists()
