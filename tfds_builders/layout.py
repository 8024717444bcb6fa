"""Finds the images of a raw folder, and everything that its layout lacks.

Synopsis:

  problems = []
  root = find_root('sysu_mm01', manual_dir, ('cam1', 'cam2', ...))
  identities = read_identities(root / 'test_id.txt', problems)
  folders = list_cameras(root, cameras, ('.jpg',), problems)
  raise_problems('sysu_mm01', root, problems)

Functions append to `problems` and go on, so that a user sees all of them at
once and not the next one after each repair.
"""

import os
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from tfds_builders.raw import Item

# camera -> identity -> sorted image files
Cameras = dict[int, dict[int, list[pathlib.Path]]]


class Camera(NamedTuple):
  """One camera: 'visible' or 'infrared', its place, and whether indoors."""

  modality: str
  location: int
  indoor: bool


def find_root(
  name: str, manual_dir: str | os.PathLike, landmarks: Collection[str]
) -> pathlib.Path:
  """Returns `manual_dir`, or the one folder in it that has the layout.

  Args:
    name: of the dataset.
    manual_dir: what the user gave.
    landmarks: names, one of which the folder looked for has to hold.

  Raises:
    ValueError: if there is none or more than one.
  """
  folder = pathlib.Path(manual_dir).expanduser().resolve()
  if not folder.is_dir():
    kind = 'is a file, not a folder' if folder.exists() else 'does not exist'
    raise ValueError(f'--manual_dir={manual_dir}: {folder} {kind}')

  def fits(candidate: pathlib.Path) -> bool:
    return any((candidate / name).is_dir() for name in landmarks)

  if fits(folder):
    return folder
  below = [child for child in sorted(folder.iterdir()) if child.is_dir()]
  fitting = [child for child in below if fits(child)]
  if len(fitting) == 1:
    return fitting[0]
  if fitting:
    raise ValueError(
      f'{folder} holds {len(fitting)} such folders '
      f'({", ".join(map(str, fitting))}): give one of them as --manual_dir'
    )
  raise ValueError(
    f'neither {folder} nor a folder in it holds {", ".join(landmarks)}: the '
    f'README.md of tfds_builders/{name} shows how it has to be laid out'
  )


def read_identities(path: pathlib.Path, problems: list[str]) -> list[int]:
  """Reads the numbers of a split, separated by commas or white space.

  Returns:
    The sorted numbers; [] after a problem.
  """
  try:
    text = path.read_text('utf-8-sig')
  except FileNotFoundError:
    problems.append(f'{path}: no such file')
    return []
  except (OSError, UnicodeDecodeError) as error:
    problems.append(f'{path}: cannot be read ({error})')
    return []
  numbers = []
  for place, line in enumerate(text.splitlines(), 1):
    for word in re.split(r'[,\s]+', line.strip()):
      if word.isdecimal():
        numbers.append(int(word))
      elif word:
        problems.append(
          f'{path}: line {place}: {word[:40]!r} is no number of a person'
        )
  if not text.strip():
    problems.append(f'{path}: is empty')
  return sorted(set(numbers))


def list_cameras(
  root: pathlib.Path,
  cameras: Iterable[int],
  suffixes: Collection[str],
  problems: list[str],
  stem: str = '.*',
) -> Cameras:
  """Lists `root`/cam<camera>/<four digits>/*: the images of each person.

  Args:
    root: the folder of the layout.
    cameras: their numbers.
    suffixes: of images, in lower case; other files are passed over.
    problems: gets a line for each folder that is missing or unreadable.
    stem: what the names of images have to be without their suffix.
  """
  listed: Cameras = {}
  for camera in cameras:
    folder = root / f'cam{camera}'
    try:
      names = sorted(entry.name for entry in os.scandir(folder))
    except FileNotFoundError:
      problems.append(f'{folder}: no such folder')
      continue
    except OSError as error:
      problems.append(f'{folder}: cannot be listed ({error.strerror})')
      continue
    listed[camera] = {
      int(name): list_images(folder / name, suffixes, problems, stem)
      for name in names
      if re.fullmatch(r'\d{4}', name)
    }
  return listed


def list_images(
  folder: pathlib.Path,
  suffixes: Collection[str],
  problems: list[str],
  stem: str = '.*',
) -> list[pathlib.Path]:
  """Returns the files with one of `suffixes`, sorted by name; no hidden ones.

  An image whose name does not fit `stem` (a copy, say) is a problem: it would
  shift the numbers of those behind it.
  """
  try:
    names = sorted(entry.name for entry in os.scandir(folder))
  except OSError as error:
    problems.append(f'{folder}: cannot be listed ({error.strerror})')
    return []
  images = []
  for name in names:
    start, suffix = os.path.splitext(name)
    if name.startswith('.') or suffix.lower() not in suffixes:
      continue
    if not re.fullmatch(stem, start):
      problems.append(f'{folder / name}: no such name belongs here; a copy?')
    images.append(folder / name)
  return images


def check_splits(
  splits: Mapping[str, Sequence[int]],
  listed: Cameras,
  root: pathlib.Path,
  problems: list[str],
):
  """Every person is in one list and in front of one camera, at least."""
  owner: dict[int, str] = {}
  for name, identities in splits.items():
    for identity in identities:
      if identity in owner:
        problems.append(
          f'{root}: the person {identity:04d} is listed in {owner[identity]} '
          f'and in {name}'
        )
      owner[identity] = name
      if listed and not any(people.get(identity) for people in listed.values()):
        problems.append(
          f'{root}: the person {identity:04d}, listed in {name}, has no image '
          f'in any camera (such as cam{min(listed)}/{identity:04d})'
        )


def items_of(
  listed: Cameras,
  cameras: Mapping[int, Camera],
  splits: Mapping[str, Sequence[int]],
) -> list[Item]:
  """Returns the images of the listed people, in the order of their records."""
  return [
    Item(path, split, identity, camera, frame, *cameras[camera])
    for split, identities in splits.items()
    for identity in identities
    for camera in sorted(listed)
    for frame, path in enumerate(listed[camera].get(identity, ()))
  ]


def count_on_disk(listed: Cameras) -> dict[str, int]:
  """Counts the people and images of each camera, listed in a split or not."""
  counts = {}
  for camera, people in sorted(listed.items()):
    filled = [files for files in people.values() if files]
    counts[f'on disk camera {camera} identities'] = len(filled)
    counts[f'on disk camera {camera} images'] = sum(map(len, filled))
  return counts


def raise_problems(name: str, root: pathlib.Path, problems: Sequence[str]):
  """Raises all problems as one ValueError, if there are any."""
  if problems:
    number = '1 problem' if len(problems) == 1 else f'{len(problems)} problems'
    raise ValueError(
      f'{root} is not laid out as {name} has to be (see the README.md of '
      f'tfds_builders/{name}); {number}:\n  ' + '\n  '.join(problems)
    )
