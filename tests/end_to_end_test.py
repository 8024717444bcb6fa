"""From a config file to a table of results, in a child process."""

import json
import re

import numpy as np
import pytest


@pytest.fixture(scope='module')
def report(trained):
  return json.loads((trained.workdir / 'results.json').read_text())


def test_training_beats_chance_by_a_wide_margin(trained):
  lines = (trained.workdir / 'metrics.jsonl').read_text().splitlines()
  metrics = [json.loads(line) for line in lines]
  assert [m['step'] for m in metrics] == [1, *range(5, 61, 5)]
  accuracy = np.mean([m['accuracy'] for m in metrics[-5:]])
  # 8 identities: chance is 1/8.
  assert accuracy > 3 / 8
  first, *_, last = (m['identity'] for m in metrics)
  assert last < first


def test_unseen_people_are_found_in_visible_light(report):
  # 4 identities, of which one is right.
  found = report['results']['visible->visible, all, multi-shot']
  assert found['rank1'] > 50
  assert found['queries'] == 160


def test_evaluating_alone_gives_the_same_numbers(
  trained, start, finish, tiny_flags, report
):
  (trained.workdir / 'results.json').unlink()
  flags = json.loads((trained.workdir / 'config.json').read_text())
  schedule = flags['schedule']
  child = start(
    *tiny_flags,
    '--mode=evaluate',
    f'--workdir={trained.workdir}',
    '--config.method.erasing=0.0',
    f'--config.schedule.epochs={schedule["epochs"]}',
    f'--config.schedule.warmup_epochs={schedule["warmup_epochs"]}',
    f'--config.schedule.decay_epochs={tuple(schedule["decay_epochs"])}',
    f'--config.log_every={flags["log_every"]}',
    f'--config.checkpoint_every={flags["checkpoint_every"]}',
  )
  evaluated = finish(child)
  assert evaluated.returncode == 0, evaluated.stderr
  assert 'step ' not in evaluated.stderr
  again = json.loads((trained.workdir / 'results.json').read_text())
  # Somebody may have committed meanwhile.
  assert {**again, 'git_commit': ''} == {**report, 'git_commit': ''}
  table = trained.stdout[trained.stdout.index('| search') :]
  assert evaluated.stdout == table


def test_table_is_printed_and_kept(trained, report):
  markdown = (trained.workdir / 'results.md').read_text()
  rows = [line for line in trained.stdout.splitlines() if line.startswith('| ')]
  assert len(rows) == 2 + len(report['results']) == 10
  assert '\n'.join(rows) in markdown
  assert f'written to {trained.workdir}/results.md' in trained.stdout


def test_output_is_the_run_and_nothing_else(trained, uninterrupted):
  ours = re.compile(
    r'step \d+/\d+  loss|(Rendering|decode|embed) [a-z_/ ]+: +\d+%|$'
    # jax 0.10.0 complains of programs that it cached itself.
    r'|E\d+ .*cpu_aot_loader.cc'
  )
  for child in (trained, uninterrupted):
    for line in re.split(r'[\r\n]', child.stderr):
      assert ours.match(line), line
    first, *_, last = child.stdout.strip().splitlines()
    assert first.startswith('| search')
    assert last.startswith('written to ')


def test_start_says_what_there_is(trained):
  overview = (trained.workdir / 'parameters.txt').read_text()
  assert 'classifier' in overview
  assert 'Total' in overview
