"""Builds from the dummy folder, which has the layout of the real one.

People 1 and 2 are in train_id, 3 in val_id, 4 and 5 in test_id; 6 is in no
list. Person 5 is not seen by the cameras 1 and 2.
"""

import collections
import io
import pathlib
import shutil

import numpy as np
import pytest
import scipy.io
import tensorflow_datasets as tfds
from PIL import Image

from tfds_builders import counts, prepare, raw, records
from tfds_builders.sysu_mm01 import sysu_mm01_dataset_builder as module

DUMMY = pathlib.Path(__file__).parent / 'dummy_data'
VISIBLE = (1, 2, 4, 5)
INFRARED = (3, 6)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp('data')
  return prepare.prepare('sysu_mm01', data_dir, manual_dir=DUMMY)


@pytest.fixture
def tree(tmp_path):
  return pathlib.Path(shutil.copytree(DUMMY, tmp_path / 'SYSU-MM01'))


def rows(folder, split):
  decoders = {'image': tfds.decode.SkipDecoding()}
  builder = tfds.builder_from_directory(folder)
  return list(builder.as_data_source(split, decoders=decoders))


def test_records_are_the_files_byte_by_byte(folder):
  people = {'train': (1, 2, 3), 'test': (4, 5)}
  for split, identities in people.items():
    expected = []
    for identity in identities:
      for camera in range(1, 7):
        place = DUMMY / f'cam{camera}' / f'{identity:04d}'
        for frame, path in enumerate(sorted(place.glob('*.jpg'))):
          expected.append((identity, camera, frame, path.read_bytes()))
    found = rows(folder, split)
    assert len(expected) == len(found) > 20
    for row, (identity, camera, frame, data) in zip(
      found, expected, strict=True
    ):
      assert row['image'] == data
      assert (row['identity'], row['camera']) == (identity, camera)
      assert row['frame'] == frame
      assert row['modality'] == (camera in INFRARED)
      assert row['location'] == (1, 2, 2, 4, 5, 6)[camera - 1]
      assert row['indoor'] == (camera <= 3)


def test_validation_people_are_noted_and_part_of_train(folder):
  metadata = prepare.read_metadata(folder)
  assert metadata['validation_identities'] == [3]
  assert 3 in {int(row['identity']) for row in rows(folder, 'train')}
  assert metadata['left_out'] == metadata['duplicates'] == []
  assert metadata['on_disk']['on disk camera 4 identities'] == 6
  assert metadata['on_disk']['on disk camera 1 images'] == 9


def test_tfds_itself_builds_the_same(folder, tmp_path):
  builder = module.Builder(data_dir=tmp_path, file_format='array_record')
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(manual_dir=DUMMY)
  )
  for split in ('train', 'test'):
    ours = [row['image'] for row in rows(folder, split)]
    assert [row['image'] for row in rows(builder.data_path, split)] == ours


def test_several_shards_keep_the_order(folder, tmp_path, monkeypatch):
  monkeypatch.setattr(raw, '_SHARD', 13)  # train: 36, test: 26 = 2 x 13
  again = prepare.prepare('sysu_mm01', tmp_path, manual_dir=DUMMY)
  assert len(list(again.glob('*train*-of-00003'))) == 3
  assert len(list(again.glob('*test*-of-00002'))) == 2
  assert prepare.read_fingerprint(again) == prepare.read_fingerprint(folder)
  assert [r['image'] for r in rows(again, 'train')] == [
    r['image'] for r in rows(folder, 'train')
  ]


def test_permutations_are_those_of_the_file_from_zero(folder):
  found = prepare.read_permutations(folder)
  cells = scipy.io.loadmat(DUMMY / 'exp' / 'rand_perm_cam.mat')['rand_perm_cam']
  seen = {(4, c) for c in range(1, 7)} | {(5, c) for c in (3, 4, 5, 6)}
  assert set(found) == seen
  for identity, camera in seen:
    rows = cells[camera - 1, 0][identity - 1, 0]
    entry = found[identity, camera]
    assert entry.dtype == np.int64
    assert entry.shape == (10, 3 if identity == 4 else 2)
    for trial in range(10):
      for place in range(entry.shape[1]):
        assert entry[trial, place] == int(rows[trial, place]) - 1


def test_found_counts(folder):
  found = prepare.read_fingerprint(folder)['counts']
  assert found['train identities'] == 3
  assert found['train_id identities'] == 2
  assert found['val_id visible images'] == 8
  assert found['test camera 1 images'] == 3
  assert found['test camera 1 identities'] == 1
  assert found['test infrared images'] == 10
  every = {**found, **prepare.read_metadata(folder)['on_disk']}
  assert set(module.expected_counts()) <= set(every)


def test_published_counts_add_up():
  figures = module.expected_counts()

  def total(form, cameras):
    return sum(figures[form.format(camera)] for camera in cameras)

  assert total('on disk camera {} images', VISIBLE) == 30071
  assert total('on disk camera {} images', INFRARED) == 15792
  for cameras, modality in ((VISIBLE, 'visible'), (INFRARED, 'infrared')):
    train, part, rest, test = (
      figures[f'{group} {modality} images']
      for group in ('train', 'train_id', 'val_id', 'test')
    )
    assert train == part + rest
    assert part == total('train_id camera {} images', cameras)
    assert test == total('test camera {} images', cameras)
  assert figures['train identities'] == (
    figures['train_id identities'] + figures['val_id identities']
  )


def test_the_table_marks_what_differs():
  expected = {'test camera 1 images': 1374, 'test identities': 96}
  text = counts.table(expected, {'test camera 1 images': 1374})
  assert '1,374     1,374\n' in text
  assert '96         0  <- differs' in text
  assert 'warning: 1 of 2 figures' in text
  assert 'warning' not in counts.table(expected, expected)


def test_the_parent_folder_does_too(folder, tree, tmp_path):
  (tmp_path / 'notes').mkdir()
  again = prepare.prepare(
    'sysu_mm01', tmp_path / 'data', manual_dir=tree.parent
  )
  assert prepare.read_fingerprint(again) == prepare.read_fingerprint(folder)
  assert prepare.read_permutations(again).keys()


def test_two_folders_in_the_parent_are_refused(tree):
  shutil.copytree(DUMMY, tree.with_name('copy'))
  with pytest.raises(ValueError, match='holds 2 such folders') as raised:
    module.find(tree.parent)
  assert str(tree) in str(raised.value)


def test_lists_are_read_from_mat_where_there_is_no_txt(tree):
  expected = module.find(tree)
  for name, people in (('train', [1, 2]), ('val', [3]), ('test', [4, 5])):
    (tree / 'exp' / f'{name}_id.txt').unlink()
    scipy.io.savemat(tree / 'exp' / f'{name}_id.mat', {'id': people})
  assert module.find(tree).items == expected.items
  (tree / 'exp' / 'val_id.mat').write_bytes(b'MATLAB?')
  with pytest.raises(ValueError, match=r'val_id\.mat: cannot be read'):
    module.find(tree)


def test_single_channel_infrared_is_kept(tree, tmp_path):
  path = tree / 'cam3' / '0005' / '0001.jpg'
  Image.open(io.BytesIO(path.read_bytes())).convert('L').save(path)
  folder = prepare.prepare('sysu_mm01', tmp_path / 'data', manual_dir=tree)
  (row,) = (
    r
    for r in rows(folder, 'test')
    if (r['identity'], r['camera'], r['frame']) == (5, 3, 0)
  )
  assert row['image'] == path.read_bytes()
  assert Image.open(io.BytesIO(row['image'])).mode == 'L'


def test_every_problem_of_the_layout_is_named_at_once(tree):
  shutil.rmtree(tree / 'cam5')
  (tree / 'exp' / 'val_id.txt').unlink()
  (tree / 'exp' / 'train_id.txt').write_text('1,2,x7,5\n')
  (tree / 'exp' / 'test_id.txt').write_text('4,5,77')
  copy = tree / 'cam4' / '0004' / '0001 (1).jpg'
  copy.write_bytes((tree / 'cam4' / '0004' / '0001.jpg').read_bytes())
  with pytest.raises(ValueError) as raised:
    module.find(tree)
  text = str(raised.value)
  for problem in (
    f'{tree}/cam5: no such folder',
    f'{tree}/exp/val_id.txt: no such file',
    f"{tree}/exp/train_id.txt: line 1: 'x7' is no number of a person",
    'the person 0005 is listed in exp/train_id.txt and in exp/test_id.txt',
    'the person 0077, listed in exp/test_id.txt, has no image in any camera',
    f'{copy}: no such name belongs here',
  ):
    assert problem in text
  # The copy makes four images of three permuted ones.
  assert 'identity 4, camera 4: the permutation is of 3 images' in text
  assert '7 problems' in text
  assert 'README.md of tfds_builders/sysu_mm01' in text


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda path: None, 'does not exist'),
    (lambda path: path.write_bytes(b'PK'), 'is a file, not a folder'),
    (lambda path: path.mkdir(), 'a folder in it holds cam1'),
  ],
)
def test_a_folder_that_is_something_else(make, message, tmp_path):
  path = tmp_path / 'raw'
  make(path)
  with pytest.raises(ValueError, match=message) as raised:
    module.find(path)
  assert str(path) in str(raised.value)


def damage(tree, change):
  path = tree / 'exp' / 'rand_perm_cam.mat'
  cells = scipy.io.loadmat(path)['rand_perm_cam']
  change(cells)
  scipy.io.savemat(path, {'rand_perm_cam': cells})


def repeat(cells):
  cells[3, 0][3, 0][6] = [1, 3, 3]


def shorten(cells):
  cells[3, 0][3, 0] = np.array([[2, 1]] * 10)


def lengthen(cells):
  cells[3, 0][3, 0] = np.array([[2, 1, 4, 3]] * 10)


def empty(cells):
  cells[3, 0][3, 0] = np.zeros((0, 0))


def cut(cells):
  cells[3, 0] = cells[3, 0][:3]


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (repeat, r'trial 7 is no permutation of 1 to 3 \(\[1, 3, 3\]'),
    (shorten, 'the permutation is of 2 images, but 3 are there'),
    (lengthen, 'the permutation is of 4 images, but 3 are there'),
    (empty, 'the permutation is of 0 images, but 3 are there'),
    (cut, 'there is no permutation'),
  ],
)
def test_permutations_that_contradict_the_images(tree, change, message):
  damage(tree, change)
  with pytest.raises(ValueError, match=f'identity 4, camera 4: {message}'):
    module.find(tree)


def test_a_damaged_permutation_file(tree):
  (tree / 'exp' / 'rand_perm_cam.mat').write_bytes(b'MATLAB 5.0' * 20)
  with pytest.raises(ValueError, match=r'rand_perm_cam\.mat: cannot be read'):
    module.find(tree)
  scipy.io.savemat(tree / 'exp' / 'rand_perm_cam.mat', {'other': [1]})
  with pytest.raises(ValueError, match='has no variable rand_perm_cam'):
    module.find(tree)


def test_permutations_can_come_later(folder, tree, tmp_path, capsys):
  mat = tree / 'exp' / 'rand_perm_cam.mat'
  elsewhere = mat.rename(tmp_path / 'rand_perm_cam.mat')
  made = prepare.prepare('sysu_mm01', tmp_path / 'data', manual_dir=tree)
  assert prepare.read_permutations(made) is None
  # Beside the images, and even without them.
  elsewhere.rename(tree / 'rand_perm_cam.mat')
  shutil.rmtree(tree / 'cam1')
  assert made == prepare.prepare(
    'sysu_mm01', tmp_path / 'data', manual_dir=tree
  )
  assert 'added the permutations of' in capsys.readouterr().err
  added, ours = map(prepare.read_permutations, (made, folder))
  assert added.keys() == ours.keys()
  for key in ours:
    np.testing.assert_array_equal(added[key], ours[key])
  prepare.prepare('sysu_mm01', tmp_path / 'data', manual_dir=tree)
  assert 'nothing was read from' in capsys.readouterr().err


def test_frames_count_what_was_left_out(tree, tmp_path):
  (tree / 'cam4' / '0004' / '0002.jpg').write_bytes(b'')
  folder = prepare.prepare(
    'sysu_mm01', tmp_path / 'data', manual_dir=tree, skip_corrupt=True
  )
  frames = collections.defaultdict(list)
  for row in rows(folder, 'test'):
    frames[int(row['identity']), int(row['camera'])].append(int(row['frame']))
  assert frames[4, 4] == [0, 2]
  assert prepare.read_permutations(folder)[4, 4].shape == (10, 3)


def test_description_and_citation_come_from_the_files(tmp_path):
  info = module.Builder(data_dir=tmp_path).info
  assert 'SYSU-MM01' in info.description
  assert 'wu2017rgb' in info.citation
  assert set(info.features) == set(records.features())
