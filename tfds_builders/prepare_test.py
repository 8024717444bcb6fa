"""What users meet when their raw folder is damaged, or is not there.

The folder is the dummy one of SYSU-MM01; the code is the same for all.
"""

import io
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
import tensorflow_datasets as tfds
from PIL import Image

from tfds_builders import permutations, prepare, raw

ROOT = pathlib.Path(__file__).resolve().parents[1]
DUMMY = ROOT / 'tfds_builders' / 'sysu_mm01' / 'dummy_data'
GATED = ('sysu_mm01', 'regdb', 'npu_reid')
SLOW = """
import sys, time
from tfds_builders import prepare, raw
write = raw._examples
def slowly(*args):
  for example in write(*args):
    time.sleep(0.2)
    yield example
raw._examples = slowly
prepare.prepare('sysu_mm01', sys.argv[1], manual_dir=sys.argv[2])
"""


@pytest.fixture
def tree(tmp_path):
  return pathlib.Path(shutil.copytree(DUMMY, tmp_path / 'SYSU-MM01'))


def save(image, path, encoding='JPEG'):
  buffer = io.BytesIO()
  image.save(buffer, encoding)
  path.write_bytes(buffer.getvalue())


def spoil(tree):
  """Spoils ten images of test people; returns {path: reason}."""
  folders = [tree / f'cam{c}' / '0004' for c in range(1, 7)]
  paths = [folder / '0001.jpg' for folder in folders]
  paths += [folder / '0002.jpg' for folder in folders[:4]]
  whole = paths[0].read_bytes()
  image = Image.open(io.BytesIO(whole))
  paths[0].write_bytes(whole[:-1])
  paths[1].write_bytes(whole[: len(whole) // 2])
  paths[2].write_bytes(b'')
  paths[3].write_bytes(b'<html>404</html>')
  paths[4].unlink()
  paths[4].mkdir()
  save(image.convert('CMYK'), paths[5])
  save(image.convert('L'), paths[6])
  save(image, paths[7], 'PNG')
  paths[8].write_bytes(bytes(2000))
  paths[9].unlink()
  paths[9].symlink_to(tree / 'nowhere')
  reasons = [
    'is corrupt: image file is truncated',
    'is corrupt: Truncated',
    'is empty (0 bytes)',
    'is corrupt: no image can be recognised in it',
    'is a folder, not an image',
    'has the mode CMYK; infrared images have the mode RGB or L',
    'has the mode L; visible images have the mode RGB',
    'is encoded as PNG, not as JPEG',
    'is corrupt: no image can be recognised in it',
    'cannot be read (No such file or directory)',
  ]
  return dict(zip(paths, reasons, strict=True))


def test_all_bad_images_are_listed_and_nothing_is_built(tree, tmp_path):
  spoiled = spoil(tree)
  data_dir = tmp_path / 'data'
  with pytest.raises(ValueError) as raised:
    prepare.prepare('sysu_mm01', data_dir, manual_dir=tree)
  text = str(raised.value)
  assert f'10 of 62 images in {tree} cannot be used' in text
  assert '--skip_corrupt' in text
  for path, reason in spoiled.items():
    assert f'{path}: {reason}' in text
  assert not list(data_dir.glob('**/*.array_record*'))
  assert not list(data_dir.glob('**/dataset_info.json'))


def test_bad_images_can_be_left_out(tree, tmp_path, capsys):
  spoiled = spoil(tree)
  arguments = ['sysu_mm01', f'--data_dir={tmp_path}/data']
  prepare.main([*arguments, f'--manual_dir={tree}', '--skip_corrupt'])
  out = capsys.readouterr().out
  folder = tmp_path / 'data' / 'sysu_mm01' / '1.0.0'
  fingerprint = prepare.read_fingerprint(folder)
  assert fingerprint['images'] == 52
  assert fingerprint['counts']['test camera 4 images'] == 3
  relative = {str(path.relative_to(tree)) for path in spoiled}
  assert set(fingerprint['left_out']) == relative
  left_out = prepare.read_metadata(folder)['left_out']
  for each in left_out:
    assert each['reason'].startswith(spoiled[tree / each['path']])
  assert len(left_out) == 10
  assert 'warning: 10 images were left out:' in out
  assert 'cam1/0004/0001.jpg: is corrupt: image file is truncated' in out
  # Whoever opens the set later still gets to know.
  prepare.main(arguments)
  assert 'warning: 10 images were left out:' in capsys.readouterr().out


def test_a_person_without_an_image_left_is_named(tree, tmp_path, capsys):
  for path in tree.glob('cam?/0002/*.jpg'):
    path.write_bytes(b'')
  prepare.main(
    [
      'sysu_mm01',
      f'--data_dir={tmp_path}/data',
      f'--manual_dir={tree}',
      '--skip_corrupt',
    ]
  )
  assert 'warning: no image of identity 2 is left' in capsys.readouterr().out


def test_a_split_without_an_image_left_is_an_error(tree, tmp_path):
  for path in tree.glob('cam?/000[45]/*.jpg'):
    path.write_bytes(b'')
  with pytest.raises(ValueError, match='no image of the split test'):
    prepare.prepare(
      'sysu_mm01', tmp_path / 'data', manual_dir=tree, skip_corrupt=True
    )


def test_identical_files_are_named_and_kept(tree, tmp_path, capsys):
  same = [tree / f'cam1/000{person}/0001.jpg' for person in (1, 4)]
  same.append(tree / 'cam2/0004/0002.jpg')
  for path in same[1:]:
    path.write_bytes(same[0].read_bytes())
  twice = [tree / f'cam6/0005/000{frame}.jpg' for frame in (1, 2)]
  twice[1].write_bytes(twice[0].read_bytes())
  prepare.main(
    ['sysu_mm01', f'--data_dir={tmp_path}/data', f'--manual_dir={tree}']
  )
  out = capsys.readouterr().out
  head = 'warning: 3 identical files of the identities 1, 4:\n'
  paths = [f'  {path.relative_to(tree)}\n' for path in same]
  assert head + ''.join(paths) in out
  assert 'warning: 2 identical files of the identity 5:\n  cam6/0005' in out
  metadata = prepare.read_metadata(tmp_path / 'data' / 'sysu_mm01' / '1.0.0')
  people = [[e['identity'] for e in group] for group in metadata['duplicates']]
  assert people == [[1, 4, 4], [5, 5]]
  assert metadata['left_out'] == []


def test_layout_is_checked_before_any_image_is_read(
  tree, tmp_path, monkeypatch
):
  spoil(tree)
  (tree / 'exp' / 'test_id.txt').unlink()
  monkeypatch.setattr(raw, 'check', None)
  with pytest.raises(ValueError, match=r'test_id\.txt: no such file'):
    prepare.prepare('sysu_mm01', tmp_path / 'data', manual_dir=tree)


def test_a_killed_build_leaves_nothing_readable(tmp_path):
  data_dir = tmp_path / 'data'
  versions = data_dir / 'sysu_mm01'
  child = subprocess.Popen(
    [sys.executable, '-c', SLOW, str(data_dir), str(DUMMY)],
    cwd=ROOT,
    stderr=subprocess.DEVNULL,
  )
  try:
    deadline = time.monotonic() + 60
    while not list(versions.glob('incomplete.*/*.array_record*')):
      assert time.monotonic() < deadline and child.poll() is None
      time.sleep(0.02)
    assert child.poll() is None
  finally:
    child.send_signal(signal.SIGKILL)
    child.wait()
  assert list(versions.glob('incomplete.*'))
  assert not (versions / '1.0.0').exists()
  with pytest.raises(ValueError, match='is not prepared'):
    prepare.prepare('sysu_mm01', data_dir)
  folder = prepare.prepare('sysu_mm01', data_dir, manual_dir=DUMMY)
  assert folder == versions / '1.0.0'
  assert not list(versions.glob('incomplete.*'))
  assert prepare.read_fingerprint(folder)['images'] == 62


def test_a_build_killed_before_its_fingerprint_lacks_nothing_else(tmp_path):
  folder = prepare.prepare('sysu_mm01', tmp_path, manual_dir=DUMMY)
  before = prepare.read_fingerprint(folder)
  (folder / prepare.FINGERPRINT).unlink()
  assert (folder / permutations.FILE).exists()
  assert prepare.prepare('sysu_mm01', tmp_path) == folder
  assert prepare.read_fingerprint(folder) == before


def test_a_failure_while_writing_leaves_nothing(tree, tmp_path, monkeypatch):
  check = raw.check

  def check_and_lose(items, formats):
    verdict = check(items, formats)
    (tree / 'cam6' / '0005' / '0002.jpg').unlink()
    return verdict

  monkeypatch.setattr(raw, 'check', check_and_lose)
  with pytest.raises(SystemExit, match='nothing half-made is kept'):
    prepare.main(
      ['sysu_mm01', f'--data_dir={tmp_path}/data', f'--manual_dir={tree}']
    )
  versions = tmp_path / 'data' / 'sysu_mm01'
  assert not list(versions.glob('*'))


@pytest.mark.parametrize('name', GATED)
def test_without_the_raw_folder_it_says_whom_to_ask(name, tmp_path):
  with pytest.raises(ValueError) as raised:
    prepare.prepare(name, tmp_path)
  text = str(raised.value)
  assert '\n' not in text
  assert f"'{name}' is not prepared: there is no {tmp_path}/{name}/" in text
  assert f'python -m tfds_builders.prepare {name} --manual_dir=FOLDER' in text
  assert f'--data_dir={tmp_path}' in text
  assert ('--config=all' in text) == (name == 'regdb')
  assert 'http' in text and 'academic research' in text


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['sysu_mm01', '--config=small'], "has no config 'small': leave it out"),
    (['sysu_mm01', '--config=all'], "has no config 'all': leave it out"),
    (['regdb', '--config=trial_11'], 'choose one of trial_1, trial_2'),
    (['npu_reid', '--config=all'], 'choose one of large, small'),
  ],
)
def test_unknown_configs(arguments, message, tmp_path):
  with pytest.raises(SystemExit, match=message):
    prepare.main([*arguments, f'--data_dir={tmp_path}'])


def test_a_prepared_set_is_opened_where_nothing_can_be_written(
  tmp_path, monkeypatch
):
  folder = prepare.prepare('sysu_mm01', tmp_path, manual_dir=DUMMY)
  names = sorted(path.name for path in tmp_path.iterdir())
  monkeypatch.setattr(pathlib.Path, 'open', None)
  assert prepare.prepare('sysu_mm01', tmp_path) == folder
  assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_bars_show_the_time_left(tmp_path, capsys):
  prepare.prepare('sysu_mm01', tmp_path, manual_dir=DUMMY)
  captured = capsys.readouterr()
  assert captured.out == ''
  for title in (
    'Checking images',
    'Writing sysu_mm01 train',
    'Writing sysu_mm01 test',
    'Hashing',
  ):
    assert f'{title}: 100%' in captured.err
  assert '00:00<00:00' in captured.err


@pytest.mark.parametrize('name', ['regdb', 'npu_reid'])
def test_preparing_and_reading_need_no_tensorflow(name, tmp_path):
  dummy = DUMMY.parents[1] / name / 'dummy_data'
  code = (
    'import sys\n'
    'from tfds_builders import prepare\n'
    f'print(prepare.prepare({name!r}, {str(tmp_path)!r}, '
    f'manual_dir={str(dummy)!r}))\n'
    "assert 'tensorflow' not in sys.modules\n"
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  folder = pathlib.Path(done.stdout.strip())
  metadata = json.loads((folder / 'metadata.json').read_text())
  assert prepare.read_metadata(folder) == metadata
  assert len(tfds.builder_from_directory(folder).as_data_source('test')) > 3
