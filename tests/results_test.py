"""What results.json and results.md say, and whether it is so."""

import json
import pathlib
import re
import subprocess
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

import jaxreid
from jaxreid import results, sharding
from jaxreid.data.source import Records, Table
from jaxreid.experiment import Setup
from jaxreid.train_state import TrainState
from tfds_builders import prepare

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope='module')
def report(trained):
  return json.loads((trained.workdir / 'results.json').read_text())


def test_origin_of_the_numbers_is_recorded(report, trained, tiny_data_dir):
  folder = prepare.prepare('synthetic_reid', tiny_data_dir, 'tiny')
  assert (
    report['dataset_fingerprint']
    == (prepare.read_fingerprint(folder)['sha256'])
  )
  assert report['config'] == json.loads(
    (trained.workdir / 'config.json').read_text()
  )
  assert report['jaxreid'] == jaxreid.__version__
  assert report['checkpoint'] == {'step': 60, 'which': 'last'}
  assert report['seeds']['training'] == 0
  assert report['test_feature'] == 'neck'
  if (ROOT / '.git').exists():
    head = subprocess.check_output(
      ['git', 'rev-parse', 'HEAD'], cwd=ROOT, text=True
    ).strip()
    assert re.fullmatch(r'[0-9a-f]{40}(\+changes)?', report['git_commit'])
    # Somebody may have committed since the run.
    assert len(head) == 40


def test_searches_are_the_eight_of_the_protocol(report):
  assert list(report['results']) == sorted(
    [
      'infrared->visible, all, single-shot',
      'infrared->visible, all, multi-shot',
      'infrared->visible, indoor, single-shot',
      'infrared->visible, indoor, multi-shot',
      'visible->visible, all, multi-shot',
      'infrared->infrared, all, multi-shot',
      'gray->gray, all, multi-shot',
      'infrared->gray, all, multi-shot',
    ]
  )
  for result in report['results'].values():
    assert 0 <= result['rank1'] <= result['rank5'] <= result['rank20'] <= 100
    assert 0 < result['mINP'] <= 100
    assert 0 < result['mAP'] <= 100
    assert result['trials'] == 10


def test_domain_shift_names_every_pair(report):
  shift = report['domain_shift']
  assert set(shift) == {'visible-infrared', 'visible-gray', 'infrared-gray'}
  assert all(0 < value < np.inf for value in shift.values())


def test_markdown_says_the_same(report, trained):
  text = (trained.workdir / 'results.md').read_text()
  assert text.startswith('# lupi on synthetic_reid\n')
  assert 'Checkpoint: last, step 60.' in text
  assert f'* parameters used at test: {report["parameters_at_test"]:,}' in text
  assert report['dataset_fingerprint'] in text
  assert str(report['git_commit']) in text  # None outside a repository
  block = text[text.index('```json') + 8 : text.rindex('```')]
  assert json.loads(block) == report['config']


def test_parameters_at_test_leave_out_what_training_alone_uses(
  report, trained, restored
):
  params = restored(trained.workdir, 60).params['backbone']
  counted = 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    names = [str(getattr(key, 'key', key)) for key in path]
    if not any(
      name == 'classifier' or name.startswith('intermediate_') for name in names
    ):
      counted += leaf.size
  everything = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert report['parameters_at_test'] == counted
  assert 0 < counted < everything - 8 * 256  # at least the classifier less


def test_best_checkpoint_is_the_one_of_the_highest_validation_map(
  uninterrupted,
):
  lines = (uninterrupted.workdir / 'metrics.jsonl').read_text().splitlines()
  validated = [
    line for line in map(json.loads, lines) if 'validation_mAP' in line
  ]
  assert [line['step'] for line in validated] == [6, 12, 18, 24]
  best = max(validated, key=lambda line: line['validation_mAP'])
  report = json.loads((uninterrupted.workdir / 'results.json').read_text())
  assert report['checkpoint'] == {'step': best['step'], 'which': 'best'}
  markdown = (uninterrupted.workdir / 'results.md').read_text()
  assert f'Checkpoint: best, step {best["step"]}.' in markdown
  kept = {
    int(p.name) for p in (uninterrupted.workdir / 'checkpoints').glob('[0-9]*')
  }
  assert kept == {best['step'], 24}


def test_held_out_people_have_no_class(uninterrupted, trained, restored):
  for child, step, classes in ((uninterrupted, 24, 6), (trained, 60, 8)):
    params = restored(child.workdir, step).params['backbone']
    (kernel,) = (
      leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(params)
      if 'classifier' in jax.tree_util.keystr(path)
    )
    assert kernel.shape[-1] == classes


def _pixels_twice(variables, images, modality):
  """Visible images have two embeddings, as XIV's, infrared ones have one."""
  flat = images.reshape(len(images), 1, -1).astype(jnp.float32)
  other = variables['params']['all'] - flat[:, :, ::-1]
  both = jnp.concatenate([flat, other], axis=1)
  return both if modality == 'visible' else flat


def test_of_both_distances_validation_takes_the_sum():
  rng = np.random.default_rng(5)
  labels = [
    (identity, camera, camera, modality, frame, 0)
    for identity in range(12)
    for camera, modality in ((1, 0), (4, 0), (3, 1), (6, 1))
    for frame in range(2)
  ]
  images = rng.integers(0, 255, (len(labels), 2, 2, 3), np.uint8)
  table = Table(images, Records(*np.array(labels).T), 'fingerprint')
  setup = Setup(*[None] * len(Setup._fields))._replace(
    train=table,
    mesh=sharding.make_mesh(),
    method=types.SimpleNamespace(embed=_pixels_twice),
  )
  state = TrainState(0, {'all': jnp.float32(200)}, {}, {})
  config = ml_collections.ConfigDict(
    {
      'seed': 0,
      'batch': {'identities': 2},
      'dataset': {'validation_identities': 8, 'layout': 'sysu_mm01'},
      'evaluation': {
        'batch_size': 16,
        'average_precision': 'hits',
        'flip': False,
      },
    }
  )
  found = {}
  for distance in ('sum', 'plain', 'both'):
    config.evaluation.test_distance = distance
    found[distance] = results.evaluate_validation(config, setup, state)
  assert found['both'] == found['sum'] != found['plain']


def git(folder, *arguments):
  subprocess.run(
    ['git', '-c', 'user.name=a', '-c', 'user.email=a@b', *arguments],
    cwd=folder,
    check=True,
    capture_output=True,
  )


def test_git_commit_tells_of_changes(tmp_path, monkeypatch):
  source = tmp_path / 'repository' / 'package'
  source.mkdir(parents=True)
  monkeypatch.setattr(results, '__file__', str(source / 'results.py'))
  monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path))
  assert results.git_commit() is None
  (source / 'results.py').write_text('1\n')
  git(source.parent, 'init', '-q')
  git(source.parent, 'add', '.')
  git(source.parent, 'commit', '-qm', 'first')
  commit = results.git_commit()
  assert re.fullmatch('[0-9a-f]{40}', commit or '')
  (source / 'results.py').write_text('2\n')
  assert results.git_commit() == f'{commit}+changes'
