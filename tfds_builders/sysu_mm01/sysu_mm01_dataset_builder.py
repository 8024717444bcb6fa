"""`sysu_mm01`: SYSU-MM01, from the folder that its authors hand out.

    path = tfds_builders.prepare.prepare('sysu_mm01', manual_dir='SYSU-MM01')

`train` is train_id and val_id together (395 people), as in all published
results; metadata.json names the 99 of val_id. `test` is test_id (96 people).
"""

import os
import pathlib
from typing import Any

import tensorflow_datasets as tfds

from tfds_builders import layout, permutations, raw, records
from tfds_builders.layout import Camera
from tfds_builders.raw import INFRARED, VISIBLE

FORMATS = ('JPEG',)

# Camera 3 hangs in the room of camera 2; 4, 5 and 6 hang outdoors.
CAMERAS = {
  1: Camera(VISIBLE, 1, True),
  2: Camera(VISIBLE, 2, True),
  3: Camera(INFRARED, 2, True),
  4: Camera(VISIBLE, 4, False),
  5: Camera(VISIBLE, 5, False),
  6: Camera(INFRARED, 6, False),
}

# camera: people and images on disk (more people than the splits list), test
# people and images, images of train_id.txt
_PER_CAMERA = {
  1: (259, 6289, 56, 1374, 4721),
  2: (259, 7528, 56, 1565, 5753),
  3: (486, 9812, 93, 1883, 5929),
  4: (493, 8030, 94, 1918, 4821),
  5: (502, 8224, 95, 1918, 4989),
  6: (299, 5980, 96, 1920, 4000),
}


class Builder(tfds.core.ShardBasedBuilder):
  """Copies the JPEGs of SYSU-MM01, byte by byte, into array_record files.

  Attributes:
    found: what the prepare command has found and checked; without it the
      images of `manual_dir` are taken unchecked.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First version.'}  # noqa: RUF012
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'SYSU-MM01 is handed out by its authors at Sun Yat-sen University for '
    'academic research, after a release agreement has been signed and sent to '
    'them: https://github.com/wuancong/SYSU-MM01 has the form and says where '
    'to. Unpack what you get; --manual_dir is the folder that then holds cam1 '
    'to cam6 and exp, with train_id.txt, val_id.txt and test_id.txt in exp. '
    "For galleries drawn by the authors' permutations put rand_perm_cam.mat "
    'of their repository (evaluation/data_split) into exp, too.'
  )
  found: raw.Found | None = None

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=records.features('jpeg'),
      metadata=tfds.core.MetadataDict(),
      disable_shuffling=True,
    )

  def _shard_iterators_per_split(self, dl_manager) -> dict[str, Any]:
    found = self.found or find(dl_manager.manual_dir)
    self.info.metadata.update(found.metadata)
    if found.permutations is not None:
      permutations.write(self.data_path, found.permutations)
    return raw.shards(found.items, self.name)


def find(manual_dir: str | os.PathLike, config: str = '') -> raw.Found:
  """Lists the images of both splits, without reading any.

  Args:
    manual_dir: holds cam1 to cam6 and exp, or a folder that does.
    config: there is none.

  Raises:
    ValueError: with everything that is missing or cannot be read.
  """
  del config
  problems: list[str] = []
  root = layout.find_root(
    'sysu_mm01', manual_dir, [f'cam{camera}' for camera in CAMERAS]
  )
  lists = {
    name: _read_list(root / 'exp' / f'{name}_id', problems)
    for name in ('train', 'val', 'test')
  }
  listed = layout.list_cameras(
    root, CAMERAS, ('.jpg', '.jpeg'), problems, stem=r'\d{4}'
  )
  layout.check_splits(
    {f'exp/{name}_id.txt': lists[name] for name in lists},
    listed,
    root,
    problems,
  )
  drawn = _find_permutations(manual_dir, listed, lists['test'], problems)
  layout.raise_problems('sysu_mm01', root, problems)
  splits = {
    'train': sorted(lists['train'] + lists['val']),
    'test': lists['test'],
  }
  metadata = {
    'validation_identities': lists['val'],
    'on_disk': layout.count_on_disk(listed),
  }
  items = layout.items_of(listed, CAMERAS, splits)
  return raw.Found(root, items, metadata, drawn)


def expected_counts(config: str = '') -> dict[str, int]:
  """Returns the published figures by the labels of `counts`."""
  del config
  figures = {}
  for camera, (people, images, *_) in _PER_CAMERA.items():
    figures[f'on disk camera {camera} identities'] = people
    figures[f'on disk camera {camera} images'] = images
  figures |= {
    'train identities': 395,
    'train visible images': 22258,
    'train infrared images': 11909,
    'train_id identities': 296,
    'train_id visible images': 20284,
    'train_id infrared images': 9929,
  }
  for camera, numbers in _PER_CAMERA.items():
    figures[f'train_id camera {camera} images'] = numbers[4]
  figures |= {
    'val_id identities': 99,
    'val_id visible images': 1974,
    'val_id infrared images': 1980,
    'test identities': 96,
    'test visible images': 6775,
    'test infrared images': 3803,
  }
  for camera, (_, _, people, images, _) in _PER_CAMERA.items():
    figures[f'test camera {camera} identities'] = people
    figures[f'test camera {camera} images'] = images
  return figures


def _find_permutations(
  manual_dir: str | os.PathLike,
  listed: layout.Cameras,
  test: list[int],
  problems: list[str],
) -> permutations.Permutations | None:
  """Reads rand_perm_cam.mat, if it is there, for the test people."""
  mat = permutations.find_file(manual_dir)
  if mat is None:
    return None
  frames = {
    (identity, camera): len(listed[camera][identity])
    for camera in listed
    for identity in test
    if listed[camera].get(identity)
  }
  return permutations.read_mat(mat, frames, problems)


def _read_list(stem: pathlib.Path, problems: list[str]) -> list[int]:
  text, mat = stem.with_suffix('.txt'), stem.with_suffix('.mat')
  if text.exists() or not mat.exists():
    return layout.read_identities(text, problems)
  import scipy.io

  try:
    arrays = scipy.io.loadmat(mat)
    (values,) = (arrays[key] for key in arrays if not key.startswith('__'))
    return sorted({int(value) for value in values.ravel()})
  except Exception as error:  # damaged files make scipy raise many kinds
    problems.append(f'{mat}: cannot be read as a list of people ({error})')
    return []
