"""Builds from the dummy folder: four people in eight cameras, one in seven.

The cameras 4 and 8 have PNGs, those of 8 in one channel.
"""

import pathlib
import shutil

import pytest
import tensorflow_datasets as tfds

from tfds_builders import prepare
from tfds_builders.npu_reid import npu_reid_dataset_builder as module

DUMMY = pathlib.Path(__file__).parent / 'dummy_data'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp('data')
  return prepare.prepare('npu_reid', data_dir, manual_dir=DUMMY)


@pytest.fixture
def tree(tmp_path):
  return pathlib.Path(shutil.copytree(DUMMY, tmp_path / 'NPU-ReID'))


def rows(folder, split):
  decoders = {'image': tfds.decode.SkipDecoding()}
  builder = tfds.builder_from_directory(folder)
  return list(builder.as_data_source(split, decoders=decoders))


def test_records_are_the_files_byte_by_byte(folder):
  for split, people in (('train', (1, 2, 3)), ('test', (4,))):
    found = iter(rows(folder, split))
    for person in people:
      for camera in range(1, 9):
        place = DUMMY / f'cam{camera}' / f'{person:04d}'
        for frame, path in enumerate(sorted(place.glob('*'))):
          row = next(found)
          assert row['image'] == path.read_bytes()
          assert (row['identity'], row['camera']) == (person, camera)
          assert (row['frame'], row['location']) == (frame, camera)
          assert row['modality'] == (camera > 4)
          assert row['indoor'] == (camera % 2 == 1)
    assert next(found, None) is None
  first = {bytes(row['image'][:4]) for row in rows(folder, 'train')}
  assert len(first) == 2  # JPEG and PNG


def test_pixels_of_both_encodings_can_be_read(folder):
  source = tfds.builder_from_directory(folder).as_data_source('test')
  assert source[0]['image'].shape == (32, 16, 3)


def test_the_users_table_of_cameras_counts(tree, tmp_path):
  (tree / 'cameras.csv').write_text(
    'camera, modality, indoor, location\n'
    '# mine\n'
    '7, Visible, No, 12\n'
    + ''.join(f'{c},infrared,yes,5\n' for c in (8, *range(1, 7)))
  )
  folder = prepare.prepare('npu_reid', tmp_path / 'data', 'small', tree)
  assert folder.parent.name == 'small'
  for row in rows(folder, 'test'):
    seventh = row['camera'] == 7
    assert row['modality'] == (not seventh)
    assert row['indoor'] == (not seventh)
    assert row['location'] == (12 if seventh else 5)


def test_lists_may_have_lines(tree):
  expected = module.find(tree, 'large').items
  (tree / 'train_id.txt').write_text('3\n1\n0002\n')
  assert module.find(tree, 'large').items == expected


def test_the_template_is_copied_from_the_error_message(tree):
  (tree / 'cameras.csv').unlink()
  with pytest.raises(ValueError) as raised:
    module.find(tree, 'large')
  text = str(raised.value)
  assert f'{tree}/cameras.csv: no such file; copy {module.TEMPLATE}' in text
  assert module.TEMPLATE.read_text() in text
  readme = module.TEMPLATE.with_name('README.md').read_text()
  table = module.TEMPLATE.read_text().split('\n')[4:-1]
  assert '    ' + '\n    '.join(table) in readme


@pytest.mark.parametrize(
  ('old', 'new', 'message'),
  [
    ('camera,modality', 'cam,modality', 'the first line has to be camera,mod'),
    ('2,visible,no,2', '2,thermal,no,2', "'2,thermal,no,2' is not a camera"),
    ('2,visible,no,2', '2,visible,out,2', "'2,visible,out,2' is not a camera"),
    ('2,visible,no,2', '2,visible,no', "'2,visible,no,' is not a camera"),
    ('2,visible,no,2', '9,visible,no,2', "'9,visible,no,2' is not a camera"),
    ('2,visible,no,2', '3,visible,no,2', "'3,visible,yes,3' is not a camera"),
    ('2,visible,no,2\n', '', r'lacks the cameras \[2\]'),
  ],
)
def test_a_wrong_table_of_cameras(tree, old, new, message):
  path = tree / 'cameras.csv'
  path.write_text(path.read_text().replace(old, new))
  with pytest.raises(ValueError, match=message):
    module.find(tree, 'large')


def test_every_problem_of_the_layout_is_named_at_once(tree):
  shutil.rmtree(tree / 'cam7')
  (tree / 'train_id.txt').write_text('1,2,3,4,9')
  (tree / 'cameras.csv').write_text('')
  with pytest.raises(ValueError) as raised:
    module.find(tree, 'large')
  text = str(raised.value)
  for problem in (
    f'{tree}/cam7: no such folder',
    'the person 0004 is listed in train_id.txt and in test_id.txt',
    'the person 0009, listed in train_id.txt, has no image in any camera',
    f'{tree}/cameras.csv: the first line has to be',
  ):
    assert problem in text


def test_found_counts(folder):
  found = prepare.read_fingerprint(folder)['counts']
  assert found['all identities'] == 4
  assert found['all visible images'] == 30
  assert found['all infrared images'] == 32
  for config, split in (('large', (480, 120)), ('small', (248, 62))):
    expected = module.expected_counts(config)
    assert set(expected) <= set(found)
    assert expected['train identities'] == split[0]
    assert expected['all identities'] == sum(split)


def test_description_and_citation_come_from_the_files(tmp_path):
  info = module.Builder(data_dir=tmp_path).info
  assert 'NPU-ReID' in info.description
  assert 'NPU-ReID' in info.citation
