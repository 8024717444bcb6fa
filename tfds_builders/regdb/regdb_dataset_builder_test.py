"""Builds from the dummy folder: four people, two images each and modality."""

import io
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from tfds_builders import prepare, raw
from tfds_builders.regdb import regdb_dataset_builder as module

DUMMY = pathlib.Path(__file__).parent / 'dummy_data'
FOLDERS = {1: 'Visible', 2: 'Thermal'}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp('data')
  return prepare.prepare('regdb', data_dir, 'trial_3', DUMMY)


@pytest.fixture
def tree(tmp_path):
  return pathlib.Path(shutil.copytree(DUMMY, tmp_path / 'RegDB'))


def rows(folder, split):
  decoders = {'image': tfds.decode.SkipDecoding()}
  builder = tfds.builder_from_directory(folder)
  return list(builder.as_data_source(split, decoders=decoders))


def opened(path):
  return Image.open(io.BytesIO(path.read_bytes()))


def listed(split, trial, root=DUMMY):
  """{(person, camera): sorted paths}, read from the lists."""
  found: dict = {}
  for camera, name in ((1, 'visible'), (2, 'thermal')):
    text = (root / 'idx' / f'{split}_{name}_{trial}.txt').read_text()
    for line in text.split('\n')[:-1]:
      path = line.split(' ')[0]
      person = int(path.split('/')[1])
      found.setdefault((person, camera), []).append(root / path)
  return {key: sorted(found[key]) for key in sorted(found)}


def test_records_have_the_pixels_of_the_files(folder):
  for split in ('train', 'test'):
    found = iter(rows(folder, split))
    for (person, camera), paths in listed(split, 3).items():
      for frame, path in enumerate(paths):
        row = next(found)
        assert (row['identity'], row['camera']) == (person, camera)
        assert (row['frame'], row['location']) == (frame, camera)
        assert row['modality'] == camera - 1
        assert not row['indoor']
        image = Image.open(io.BytesIO(row['image']))
        assert (image.format, image.mode) == ('PNG', 'RGB')
        original = np.asarray(opened(path))
        np.testing.assert_array_equal(np.asarray(image), original)
    assert next(found, None) is None


@pytest.mark.parametrize('mode', ['L', 'P'])
def test_gray_bmps_get_three_equal_channels(mode, tree, tmp_path):
  for path in tree.glob('Thermal/*/*.bmp'):
    gray = opened(path).convert('L')
    if mode == 'P':
      # A table that is not the identity, or Pillow would see mode L.
      gray = gray.quantize(16)
    gray.save(path)
    assert opened(path).mode == mode
  folder = prepare.prepare('regdb', tmp_path / 'data', 'trial_3', tree)
  originals = [p for (_, c), ps in listed('test', 3, tree).items() for p in ps
               if c == 2]  # fmt: skip
  infrared = [row for row in rows(folder, 'test') if row['camera'] == 2]
  for row, path in zip(infrared, originals, strict=True):
    image = Image.open(io.BytesIO(row['image']))
    assert image.mode == 'RGB'
    np.testing.assert_array_equal(
      np.asarray(image), np.asarray(opened(path).convert('RGB'))
    )


def test_all_trials_are_prepared_with_one_check(tree, capsys, monkeypatch):
  checked = []
  inspect = raw._inspect

  def counting(item, formats):
    checked.append(item.path)
    return inspect(item, formats)

  monkeypatch.setattr(raw, '_inspect', counting)
  data_dir = tree.parent / 'data'
  prepare.main(
    [
      'regdb',
      '--config=all',
      f'--manual_dir={tree}',
      f'--data_dir={data_dir}',
    ]
  )
  assert len(checked) == len(set(checked)) == 16
  out = capsys.readouterr().out
  for trial in range(1, 11):
    folder = data_dir / 'regdb' / f'trial_{trial}' / '1.0.0'
    assert f'folder: {folder}\n' in out
    assert prepare.read_metadata(folder)['trial'] == trial
    for split in ('train', 'test'):
      people = {int(row['identity']) for row in rows(folder, split)}
      assert people == {person for person, _ in listed(split, trial)}
  # Nothing is left to do.
  prepare.main(['regdb', '--config=all', f'--data_dir={data_dir}'])
  assert len(checked) == 16


def test_the_lists_of_all_trials_are_checked_first(tree, capsys):
  for trial in (2, 9):
    (tree / 'idx' / f'test_visible_{trial}.txt').unlink()
  with pytest.raises(SystemExit) as stop:
    prepare.main(
      [
        'regdb',
        '--config=all',
        f'--manual_dir={tree}',
        f'--data_dir={tree.parent}/data',
      ]
    )
  for trial in (2, 9):
    assert f'test_visible_{trial}.txt: no such file' in str(stop.value.code)
  assert not list(tree.parent.glob('data/**/*.array_record*'))


def test_the_first_trial_is_the_default(tmp_path):
  folder = prepare.prepare('regdb', tmp_path, manual_dir=DUMMY)
  assert folder == tmp_path / 'regdb' / 'trial_1' / '1.0.0'


def test_a_neighbouring_sets_permutations_are_not_taken(tree, tmp_path, capsys):
  neighbour = DUMMY.parents[1] / 'sysu_mm01' / 'dummy_data'
  shutil.copytree(neighbour, tree.parent / 'SYSU-MM01')
  for _ in range(2):
    folder = prepare.prepare('regdb', tmp_path / 'data', manual_dir=tree.parent)
  assert prepare.read_permutations(folder) is None
  assert 'nothing was read from' in capsys.readouterr().err


def test_found_counts(folder):
  found = prepare.read_fingerprint(folder)['counts']
  found |= prepare.read_metadata(folder)['on_disk']
  expected = module.expected_counts('trial_3')
  assert set(expected) <= set(found)
  assert found['on disk infrared identities'] == 4
  assert found['on disk visible images'] == 8
  assert found['train infrared images'] == 4
  assert expected['train visible images'] == 2060
  assert expected['on disk visible images'] == 2 * 2060


def test_other_systems_lists_are_read(tree):
  expected = module.find(tree, 'trial_2')
  for path in (tree / 'idx').iterdir():
    lines = path.read_text().splitlines()
    text = ''.join(f'{line.replace("/", chr(92))}  \r\n' for line in lines)
    path.write_bytes(b'\xef\xbb\xbf' + text.encode() + b'\r\n')
  assert module.find(tree, 'trial_2') == expected


def test_files_that_are_in_no_list_count_as_frames(tree):
  place = next(tree.glob('Visible/1'))
  first = min(place.glob('*.bmp'))
  shutil.copy(first, place / 'a_first_one.bmp')
  (place / 'Thumbs.db').write_bytes(b'x')
  (place / '._hidden.bmp').write_bytes(b'x')
  items = module.find(tree, 'trial_2').items
  frames = [i.frame for i in items if (i.identity, i.camera) == (1, 1)]
  assert frames == [1, 2]


def edit(path, change):
  lines = path.read_text().splitlines()
  change(lines)
  path.write_text(''.join(f'{line}\n' for line in lines))


def test_every_problem_of_the_layout_is_named_at_once(tree):
  idx = tree / 'idx'
  lost = next(iter(listed('train', 1, tree).values()))[0]
  lost.unlink()
  gone = next(path for (_, c), path in listed('test', 1, tree).items()
              if c == 2)[0].parent  # fmt: skip
  shutil.rmtree(gone)

  def spoil(lines):
    lines[0] = lines[0].rsplit(' ', 1)[0]
    lines[1] = 'Thermal/somebody/x.bmp 1'
    lines.append(lines[2])

  edit(idx / 'train_thermal_1.txt', spoil)
  (idx / 'test_visible_1.txt').unlink()
  with pytest.raises(ValueError) as raised:
    module.find(tree, 'trial_1')
  text = str(raised.value)
  for problem in (
    f': {lost}: no such file',
    f': {gone}: no such folder (images of it that are listed: 2)',
    f'{idx}/train_thermal_1.txt: line 1: ',
    'is not PATH LABEL',
    f"{idx}/train_thermal_1.txt: line 2: 'Thermal/somebody/x.bmp' is no .bmp",
    'is listed twice',
    f'{idx}/test_visible_1.txt: no such file',
  ):
    assert problem in text
  assert 'README.md of tfds_builders/regdb' in text


def test_missing_folders(tree):
  shutil.rmtree(tree / 'idx')
  shutil.rmtree(tree / 'Thermal')
  with pytest.raises(ValueError) as raised:
    module.find(tree, 'trial_1')
  assert f'{tree}/idx: no such folder' in str(raised.value)
  assert f'{tree}/Thermal: no such folder' in str(raised.value)


def relabel(number, word):
  def change(lines):
    path = lines[number].rsplit(' ', 1)[0]
    lines[number] = f'{path} {word}'

  return change


def test_labels_have_to_agree_with_folders(tree):
  path = tree / 'idx' / 'train_visible_4.txt'
  original = path.read_text()
  edit(path, relabel(1, 7))
  with pytest.raises(ValueError, match='has the label 7, and 0 before'):
    module.find(tree, 'trial_4')
  path.write_text(original)
  for number in (2, 3):
    edit(path, relabel(number, 0))
  with pytest.raises(ValueError, match='the label 0 is given to the person of'):
    module.find(tree, 'trial_4')
  path.write_text(original)
  for number, label in enumerate((1, 1, 0, 0)):
    edit(path, relabel(number, label))
  with pytest.raises(ValueError, match='label 1 in visible and 0 in thermal'):
    module.find(tree, 'trial_4')


def test_people_of_both_halves_are_named(tree):
  train, test = (
    sorted({p for p, _ in listed(s, 5)}) for s in ('train', 'test')
  )
  for name in ('visible', 'thermal'):
    idx = tree / 'idx'
    moved = (idx / f'train_{name}_5.txt').read_text()
    (idx / f'test_{name}_5.txt').write_text(moved)
  with pytest.raises(ValueError, match='people in train and in test') as raised:
    module.find(tree, 'trial_5')
  assert f'{train[0]}, {train[1]}' in str(raised.value)
  assert test != train


def test_a_bad_image_is_named(tree, tmp_path):
  path = next(tree.glob('Visible/2/*.bmp'))
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(ValueError, match='1 of 16 images') as raised:
    prepare.prepare('regdb', tmp_path / 'data', manual_dir=tree)
  assert f'{path}: is corrupt: image file is truncated' in str(raised.value)


def test_description_and_citation_come_from_the_files(tmp_path):
  info = module.Builder(data_dir=tmp_path, config='trial_2').info
  assert 'RegDB' in info.description
  assert 'nguyen2017person' in info.citation
