"""`npu_reid`: NPU-ReID, from a folder that you lay out.

    path = tfds_builders.prepare.prepare(
        'npu_reid', config='large', manual_dir='NPU-ReID')

No layout has been published, so the README defines one. What is known of the
cameras is not enough, either: `cameras.csv` in the folder says of each its
modality, its place and whether it hangs indoors.
"""

import csv
import os
import pathlib
from typing import Any

import tensorflow_datasets as tfds

from tfds_builders import layout, raw, records
from tfds_builders.layout import Camera
from tfds_builders.raw import INFRARED, VISIBLE

FORMATS = ('JPEG', 'PNG')
TEMPLATE = pathlib.Path(__file__).with_name('cameras.csv')

_SUFFIXES = ('.jpg', '.jpeg', '.png')
_COLUMNS = ('camera', 'modality', 'indoor', 'location')
_YES_NO = {'yes': True, 'no': False}

# people, those of train, those of test, visible and infrared images
_PUBLISHED = {
  'large': (600, 480, 120, 34621, 38578),
  'small': (310, 248, 62, 16980, 19500),
}


class Builder(tfds.core.ShardBasedBuilder):
  """Copies JPEGs and PNGs, byte by byte, into array_record files.

  Attributes:
    found: what the prepare command has found and checked; without it the
      images of `manual_dir` are taken unchecked.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First version.'}  # noqa: RUF012
  BUILDER_CONFIGS = [  # noqa: RUF012
    tfds.core.BuilderConfig(
      name='large', description='NPU-ReID-L: 480 + 120 identities.'
    ),
    tfds.core.BuilderConfig(
      name='small', description='NPU-ReID-S: 248 + 62 identities.'
    ),
  ]
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'NPU-ReID is for academic research only; ask its authors through '
    'https://github.com/zhuzhu096/NPU-ReID (open an issue there). No layout '
    'of folders is published: --manual_dir is a folder that you lay out as '
    'cam1 to cam8, each with a folder of four digits for every person (cam3/'
    '0042/any name.jpg or .png), the lists train_id.txt and test_id.txt of '
    "people's numbers, and cameras.csv, of which "
    f'{TEMPLATE} is an example to be corrected.'
  )
  found: raw.Found | None = None

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=records.features(None),
      metadata=tfds.core.MetadataDict(),
      disable_shuffling=True,
    )

  def _shard_iterators_per_split(self, dl_manager) -> dict[str, Any]:
    found = self.found or find(dl_manager.manual_dir, self.builder_config.name)
    self.info.metadata.update(found.metadata)
    return raw.shards(found.items, f'{self.name} {self.builder_config.name}')


def find(manual_dir: str | os.PathLike, config: str) -> raw.Found:
  """Lists the images of both splits, without reading any.

  Args:
    manual_dir: holds cam1 to cam8, cameras.csv and the lists, or a folder that
      does.
    config: 'large' or 'small'; the layout is the same.

  Raises:
    ValueError: with everything that is missing or cannot be read.
  """
  del config
  problems: list[str] = []
  numbers = range(1, 9)
  root = layout.find_root(
    'npu_reid', manual_dir, [f'cam{camera}' for camera in numbers]
  )
  cameras = _read_cameras(root / 'cameras.csv', problems)
  splits = {
    split: layout.read_identities(root / f'{split}_id.txt', problems)
    for split in ('train', 'test')
  }
  listed = layout.list_cameras(root, numbers, _SUFFIXES, problems)
  names = {f'{split}_id.txt': splits[split] for split in splits}
  layout.check_splits(names, listed, root, problems)
  layout.raise_problems('npu_reid', root, problems)
  metadata = {'on_disk': layout.count_on_disk(listed)}
  items = layout.items_of(listed, cameras, splits)
  return raw.Found(root, items, metadata)


def expected_counts(config: str) -> dict[str, int]:
  """Returns the published figures; none are known of single cameras."""
  people, train, test, visible, infrared = _PUBLISHED[config]
  return {
    'all identities': people,
    'all visible images': visible,
    'all infrared images': infrared,
    'train identities': train,
    'test identities': test,
  }


def _read_cameras(path: pathlib.Path, problems: list[str]) -> dict[int, Camera]:
  text = _read_table(path, problems)
  if text is None:
    return {}
  rows = csv.DictReader(
    (line for line in text.splitlines() if not line.startswith('#')),
    skipinitialspace=True,
  )
  if tuple(rows.fieldnames or ()) != _COLUMNS:
    problems.append(
      f'{path}: the first line has to be {",".join(_COLUMNS)}, and is '
      f'{",".join(rows.fieldnames or ())!r}'
    )
    return {}
  cameras: dict[int, Camera] = {}
  for row in rows:
    values = [(row[name] or '').strip().lower() for name in _COLUMNS]
    number, modality, indoor, location = values
    if (
      number in map(str, range(1, 9))
      and int(number) not in cameras
      and modality in (VISIBLE, INFRARED)
      and indoor in _YES_NO
      and location.isdecimal()
    ):
      cameras[int(number)] = Camera(modality, int(location), _YES_NO[indoor])
    else:
      problems.append(
        f'{path}: {",".join(values)!r} is not a camera (1 to 8, each once), '
        'visible or infrared, yes or no, and the number of a location'
      )
  lacking = [number for number in range(1, 9) if number not in cameras]
  if lacking:
    problems.append(f'{path}: lacks the cameras {lacking}')
  return cameras


def _read_table(path: pathlib.Path, problems: list[str]) -> str | None:
  try:
    return path.read_text('utf-8-sig')
  except (OSError, UnicodeDecodeError) as error:
    what = f'cannot be read ({error})' if path.exists() else 'no such file'
    problems.append(
      f'{path}: {what}; copy {TEMPLATE} to it and correct it. It '
      f'contains:\n{TEMPLATE.read_text()}'
    )
    return None
