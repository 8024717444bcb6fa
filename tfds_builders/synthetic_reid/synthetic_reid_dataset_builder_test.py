"""Builds a tiny set through the same code as the real ones."""

import collections
import io
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from tfds_builders import prepare, records
from tfds_builders.synthetic_reid import (
  synthetic_reid_dataset_builder as builder_module,
)
from tfds_builders.synthetic_reid.render import render

Config = builder_module.Config
Builder = builder_module.Builder

MINI = Config(
  name='mini',
  train_identities=3,
  test_identities=2,
  train_frames=(2, 3),
  test_frames=1,
)
ROOT = pathlib.Path(__file__).resolve().parents[2]
CHILD = """
import sys
from tfds_builders import prepare
from tfds_builders.synthetic_reid import synthetic_reid_dataset_builder as b
b.Builder.BUILDER_CONFIGS.append(b.Config(
    name='mini', train_identities={train}, test_identities=2,
    train_frames=(2, 3), test_frames=1, workers=1))
print(prepare.prepare('synthetic_reid', sys.argv[1], 'mini'))
"""


@pytest.fixture(autouse=True)
def with_mini_config(monkeypatch):
  add_mini_config(monkeypatch)


def add_mini_config(patch):
  configs = [*Builder.BUILDER_CONFIGS, MINI]
  patch.setattr(Builder, 'BUILDER_CONFIGS', configs)
  # TFDS remembers the configs it saw first, in whatever test that was.
  patch.setattr(Builder, 'builder_configs', {c.name: c for c in configs})


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    add_mini_config(patch)
    data_dir = tmp_path_factory.mktemp('data')
    return prepare.prepare('synthetic_reid', data_dir, 'mini')


def child(data_dir: pathlib.Path, train: int = 3) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, '-c', CHILD.format(train=train), str(data_dir)],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
  )


def read(folder, split):
  decoders = {'image': tfds.decode.SkipDecoding()}
  return tfds.builder_from_directory(folder).as_data_source(
    split, decoders=decoders
  )


def test_counts_and_layout(folder):
  counts: collections.Counter = collections.Counter()
  identities = {}
  for split in ('train', 'test'):
    rows = list(read(folder, split))
    identities[split] = {int(row['identity']) for row in rows}
    for row in rows:
      counts[split, int(row['camera']), int(row['modality'])] += 1
      assert row['location'] == (1, 2, 2, 4, 5, 6)[row['camera'] - 1]
  visible = {('train', c, 0): 6 for c in (1, 2, 4, 5)}
  infrared = {('train', c, 1): 9 for c in (3, 6)}
  test = {('test', c, int(c in (3, 6))): 2 for c in range(1, 7)}
  assert counts == {**visible, **infrared, **test}
  assert not identities['train'] & identities['test']


def test_records_are_the_rendered_bytes_in_order(folder):
  rows = list(read(folder, 'train'))
  places = [(r['identity'], r['camera'], r['frame']) for r in rows]
  assert places == sorted(places)
  for row in rows[::11]:
    numbers = [int(row[k]) for k in ('identity', 'camera', 'frame')]
    assert row['image'] == render(builder_module.SEED, *numbers)
    image = np.asarray(Image.open(io.BytesIO(row['image'])))
    assert image.shape == (288, 144, 3)


def test_reading_needs_no_tensorflow_and_no_builder(folder):
  code = (
    'import sys, tensorflow_datasets as tfds\n'
    f'b = tfds.builder_from_directory({str(folder)!r})\n'
    "d = {'image': tfds.decode.SkipDecoding()}\n"
    "assert len(b.as_data_source('train', decoders=d)[0]['image']) > 1000\n"
    "assert 'tensorflow' not in sys.modules\n"
    "assert 'tfds_builders' not in sys.modules\n"
  )
  subprocess.run([sys.executable, '-c', code], check=True, cwd='/')


def test_fingerprint_does_not_depend_on_process_or_workers(folder, tmp_path):
  # Two processes at once: one builds with one worker, the other waits.
  children = [child(tmp_path), child(tmp_path)]
  outputs = [c.communicate(timeout=120)[0].decode().strip() for c in children]
  assert [c.returncode for c in children] == [0, 0]
  assert outputs[0] == outputs[1]
  ours = prepare.read_fingerprint(folder)
  assert prepare.read_fingerprint(outputs[0]) == ours
  assert ours['images'] == 3 * (4 * 2 + 2 * 3) + 2 * 6


def test_fingerprint_sees_every_image(folder):
  before = prepare.read_fingerprint(folder)
  (folder / prepare.FINGERPRINT).unlink()
  # A build killed between its last rename and its fingerprint.
  again = prepare.prepare('synthetic_reid', folder.parents[2], 'mini')
  assert again == folder
  assert prepare.read_fingerprint(folder) == before


def test_a_killed_build_leaves_nothing_readable(tmp_path):
  versions = tmp_path / 'synthetic_reid' / 'mini'
  killed = child(tmp_path, train=300)
  try:
    deadline = time.monotonic() + 60
    while not list(versions.glob('incomplete.*')):
      assert time.monotonic() < deadline and killed.poll() is None
      time.sleep(0.02)
    time.sleep(1.0)  # some images are written by now
    assert killed.poll() is None
  finally:
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
  assert list(versions.glob('*incomplete*'))
  assert not (versions / '1.1.0').exists()
  prepared = prepare.prepare('synthetic_reid', tmp_path, 'mini')
  assert prepared == versions / '1.1.0'
  assert not list(versions.glob('*incomplete*'))
  assert prepare.read_fingerprint(prepared)['images'] == 54


def test_a_prepared_set_is_returned_at_once(folder, monkeypatch):
  def fail(*args, **kwargs):
    raise AssertionError('rendered again')

  monkeypatch.setattr(Builder, 'download_and_prepare', fail)
  assert prepare.prepare('synthetic_reid', folder.parents[2], 'mini') == folder


def test_default_data_dir(folder, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(folder.parents[2]))
  assert prepare.prepare('synthetic_reid', config='mini') == folder


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['market'], "There is no dataset 'market': choose one of synthetic_reid,"),
    (['synthetic_reid', '--config=huge'], "has no config 'huge': choose one"),
    (['synthetic_reid', '--config=all'], "has no config 'all': choose one"),
    (
      ['synthetic_reid', '--manual_dir=/'],
      'rendered: it takes no --manual_dir',
    ),
  ],
)
def test_errors_are_one_sentence(arguments, message, tmp_path):
  with pytest.raises(SystemExit) as stop:
    prepare.main([*arguments, f'--data_dir={tmp_path}'])
  # A string as exit code is printed to stderr, and the status is 1.
  assert message in str(stop.value.code)
  assert '\n' not in str(stop.value.code)
  options = dict(each[2:].split('=') for each in arguments[1:])
  with pytest.raises(ValueError) as raised:
    prepare.prepare(arguments[0], tmp_path, **options)
  assert message in str(raised.value)


def test_command_line_reports_counts_and_fingerprint(folder, capsys):
  prepare.main(
    ['synthetic_reid', '--config=mini', f'--data_dir={folder.parents[2]}']
  )
  out = capsys.readouterr().out
  lines = [' '.join(line.split()) for line in out.splitlines()]
  assert 'train identities 3 3' in lines
  assert 'train infrared images 18 18' in lines
  assert 'train camera 3 images 9 9' in lines
  assert 'test visible images 8 8' in lines
  assert 'differs' not in out and 'warning' not in out
  assert f'folder: {folder}' in out
  assert prepare.read_fingerprint(folder)['sha256'] in out


def test_published_configs_have_the_sizes_of_the_documentation():
  sizes = {}
  for config in Builder.BUILDER_CONFIGS[:3]:
    tasks = {
      split: builder_module.split_tasks(config, split)
      for split in ('train', 'test')
    }
    people = {s: {t.number for t in tasks[s]} for s in tasks}
    assert not people['train'] & people['test']
    sizes[config.name] = [
      (len(people[s]), len(tasks[s])) for s in ('train', 'test')
    ]
    frames = collections.Counter((t.number, t.camera) for t in tasks['test'])
    assert min(frames.values()) >= 10
  assert sizes == {
    'small': [(100, 6000), (50, 3000)],
    'full': [(395, 33970), (96, 11520)],
    'tiny': [(8, 480), (4, 240)],
  }


def test_description_and_citation_come_from_the_files(tmp_path):
  info = Builder(config='mini', data_dir=tmp_path).info
  assert 'rendered miniature' in info.description
  assert 'wu2017rgb' in info.citation
  assert set(info.features) == set(records.features())
