"""`regdb`: RegDB with the lists of its ten trials, a config for each.

    path = tfds_builders.prepare.prepare(
        'regdb', config='trial_3', manual_dir='RegDB')

A trial halves the 412 people into `train` and `test`. A model trained on one
trial has seen the test people of the others.
"""

import os
import pathlib
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from tfds_builders import layout, raw, records
from tfds_builders.layout import Camera
from tfds_builders.raw import INFRARED, VISIBLE

FORMATS = ('BMP',)
TRIALS = range(1, 11)

# The cameras stand side by side; two locations, since nothing is excluded.
CAMERAS = {1: Camera(VISIBLE, 1, False), 2: Camera(INFRARED, 2, False)}
_FOLDERS = {1: 'Visible', 2: 'Thermal'}
_LISTS = {1: 'visible', 2: 'thermal'}


class Builder(tfds.core.ShardBasedBuilder):
  """Converts the BMPs of RegDB to PNG, without loss, in array_record files.

  Attributes:
    found: what the prepare command has found and checked; without it the
      images of `manual_dir` are taken unchecked.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First version.'}  # noqa: RUF012
  BUILDER_CONFIGS = [  # noqa: RUF012
    tfds.core.BuilderConfig(
      name=f'trial_{trial}',
      description=f'The halves of trial {trial}: 206 + 206 identities.',
    )
    for trial in TRIALS
  ]
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'RegDB is handed out by Dongguk University for academic research, after a '
    'form has been signed: http://dm.dongguk.edu/link.html has it, under the '
    'name Dongguk Body-based Person Recognition Database (DBPerson-Recog-DB1). '
    '--manual_dir is the folder that holds Visible and Thermal, with a folder '
    'of .bmp files for each person, and idx, with the lists '
    'train_visible_1.txt to test_thermal_10.txt. These lists come with the '
    'copy of the database that published code reads; '
    'https://github.com/mangye16/Cross-Modal-Re-ID-baseline says how to ask '
    'for that.'
  )
  found: raw.Found | None = None

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=records.features('png'),
      metadata=tfds.core.MetadataDict(),
      disable_shuffling=True,
    )

  def _shard_iterators_per_split(self, dl_manager) -> dict[str, Any]:
    found = self.found or find(dl_manager.manual_dir, self.builder_config.name)
    self.info.metadata.update(found.metadata)
    return raw.shards(
      found.items, f'{self.name} {self.builder_config.name}', to_png=True
    )


class _Line(NamedTuple):
  """A line of a list: 'Visible/7/male_back_v_00001_1.bmp 6'."""

  where: str
  path: pathlib.Path
  label: int


def find(manual_dir: str | os.PathLike, config: str) -> raw.Found:
  """Lists the images of a trial's halves, without reading any.

  An image's identity is the name of its folder, so that it is one number in
  all trials; the labels of the lists, which are not, have to agree with it.

  Args:
    manual_dir: holds Visible, Thermal and idx, or a folder that does.
    config: 'trial_1' to 'trial_10'.

  Raises:
    ValueError: with everything that is missing or contradictory.
  """
  problems: list[str] = []
  root = layout.find_root('regdb', manual_dir, list(_FOLDERS.values()))
  trial = int(config.removeprefix('trial_'))
  for name in (*_FOLDERS.values(), 'idx'):
    if not (root / name).is_dir():
      problems.append(f'{root / name}: no such folder')
  items: list[raw.Item] = []
  for split in ('train', 'test'):
    items += _find_half(root, split, trial, problems)
  _check_disjoint(items, trial, problems)
  layout.raise_problems('regdb', root, problems)
  metadata = {'trial': trial, 'on_disk': _count_on_disk(root)}
  return raw.Found(root, items, metadata)


def expected_counts(config: str) -> dict[str, int]:
  """Returns the published figures, equal for all trials."""
  del config
  figures = {}
  for modality in (VISIBLE, INFRARED):
    figures[f'on disk {modality} identities'] = 412
    figures[f'on disk {modality} images'] = 4120
  for split in ('train', 'test'):
    figures[f'{split} identities'] = 206
    for modality in (VISIBLE, INFRARED):
      figures[f'{split} {modality} identities'] = 206
      figures[f'{split} {modality} images'] = 2060
  return figures


def _find_half(
  root: pathlib.Path, split: str, trial: int, problems: list[str]
) -> list[raw.Item]:
  """Returns the items of a split, by identity, camera and frame."""
  items = []
  labels: dict[int, dict[int, int]] = {}
  for camera in CAMERAS:
    path = root / 'idx' / f'{split}_{_LISTS[camera]}_{trial}.txt'
    lines = _read_list(path, root, problems)
    labels[camera] = _labels(lines, problems)
    frames = _frames(lines, problems)
    items += [
      raw.Item(
        line.path,
        split,
        int(line.path.parent.name),
        camera,
        frames[line.path],
        *CAMERAS[camera],
      )
      for line in lines
      if line.path in frames
    ]
  visible, thermal = labels[1], labels[2]
  for identity in sorted(visible.keys() | thermal.keys()):
    pair = visible.get(identity), thermal.get(identity)
    # An empty list has been complained of already.
    if visible and thermal and pair[0] != pair[1]:
      problems.append(
        f'{root}/idx: trial {trial}, {split}: the person of folder {identity} '
        f'has the label {pair[0]} in visible and {pair[1]} in thermal images'
      )
  return sorted(
    items, key=lambda item: (item.identity, item.camera, item.frame)
  )


def _read_list(
  path: pathlib.Path, root: pathlib.Path, problems: list[str]
) -> list[_Line]:
  """Returns the lines that name a file in a folder with a number."""
  try:
    text = path.read_text('utf-8-sig')
  except FileNotFoundError:
    problems.append(f'{path}: no such file')
    return []
  except (OSError, UnicodeDecodeError) as error:
    problems.append(f'{path}: cannot be read ({error})')
    return []
  lines: dict[pathlib.Path, _Line] = {}
  for place, content in enumerate(text.splitlines(), 1):
    where = f'{path}: line {place}'
    words = content.replace('\\', '/').rsplit(maxsplit=1)
    if not words:
      continue
    file = root / words[0].strip().lstrip('/')
    if len(words) < 2 or not words[1].isdecimal():
      problems.append(
        f'{where}: {content[:60]!r} is not PATH LABEL, such as '
        "'Visible/7/a.bmp 6'"
      )
    elif not file.parent.name.isdecimal() or file.suffix.lower() != '.bmp':
      problems.append(
        f'{where}: {words[0]!r} is no .bmp file in a folder named by the '
        "person's number"
      )
    elif file in lines:
      problems.append(f'{where}: {words[0]!r} is listed twice')
    else:
      lines[file] = _Line(where, file, int(words[1]))
  if not text.strip():
    problems.append(f'{path}: is empty')
  return list(lines.values())


def _labels(lines: list[_Line], problems: list[str]) -> dict[int, int]:
  """Returns identity -> label; a label stands for one person, and back."""
  labels: dict[int, int] = {}
  people: dict[int, int] = {}
  for line in lines:
    identity = int(line.path.parent.name)
    if labels.setdefault(identity, line.label) != line.label:
      problems.append(
        f'{line.where}: the person of folder {identity} has the label '
        f'{line.label}, and {labels[identity]} before'
      )
    elif people.setdefault(line.label, identity) != identity:
      problems.append(
        f'{line.where}: the label {line.label} is given to the person of '
        f'folder {identity}, and to that of {people[line.label]} before'
      )
  return labels


def _frames(lines: list[_Line], problems: list[str]) -> dict[pathlib.Path, int]:
  """Returns the place of each listed file among its folder's sorted files."""
  frames: dict[pathlib.Path, int] = {}
  wanted: dict[pathlib.Path, list[_Line]] = {}
  for line in lines:
    wanted.setdefault(line.path.parent, []).append(line)
  for folder, listed in wanted.items():
    if not folder.is_dir():
      problems.append(
        f'{listed[0].where}: {folder}: no such folder (images of it that '
        f'are listed: {len(listed)})'
      )
      continue
    images = layout.list_images(folder, ('.bmp',), problems)
    places = {path: place for place, path in enumerate(images)}
    for line in listed:
      if line.path in places:
        frames[line.path] = places[line.path]
      else:
        problems.append(f'{line.where}: {line.path}: no such file')
  return frames


def _check_disjoint(items: list[raw.Item], trial: int, problems: list[str]):
  people: dict[str, set[int]] = {'train': set(), 'test': set()}
  for item in items:
    people[item.split].add(item.identity)
  both = sorted(people['train'] & people['test'])
  if both:
    problems.append(
      f'trial {trial}: people in train and in test: {", ".join(map(str, both))}'
    )


def _count_on_disk(root: pathlib.Path) -> dict[str, int]:
  counts = {}
  for camera, name in _FOLDERS.items():
    sizes = [
      len(layout.list_images(folder, ('.bmp',), []))
      for folder in sorted((root / name).iterdir())
      if folder.is_dir()
    ]
    modality = CAMERAS[camera].modality
    counts[f'on disk {modality} identities'] = sum(map(bool, sizes))
    counts[f'on disk {modality} images'] = sum(sizes)
  return counts
