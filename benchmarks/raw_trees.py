"""Rendered stand-ins for the gated datasets, in their raw layout and size.

  python benchmarks/raw_trees.py sysu_mm01 /tmp/SYSU-MM01
  python benchmarks/raw_trees.py regdb /tmp/RegDB
  python benchmarks/raw_trees.py npu_reid /tmp/NPU-ReID-S

Nobody real is shown and nothing can be learnt about the real sets: the trees
have their folders, file names, split files and numbers of images, so that
preparing and evaluating can be tried and timed without a licence.
"""

import argparse
import io
import pathlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.io
from PIL import Image
from tqdm import tqdm

from tfds_builders.synthetic_reid.workers import Task, render_all


class Share(NamedTuple):
  """So many images of so many of a group's identities in one camera."""

  identities: int
  images: int


# SYSU-MM01's published counts per camera: images of the test identities, of
# the 296 training identities, of validation and of nobody's list; in sum
# 45,863. How many identities the last three have is published in sum only.
SYSU = {
  'test': (
    Share(56, 1374), Share(56, 1565), Share(93, 1883),
    Share(94, 1918), Share(95, 1918), Share(96, 1920),
  ),
  'train': (
    Share(200, 4721), Share(200, 5753), Share(296, 5929),
    Share(290, 4821), Share(290, 4989), Share(200, 4000),
  ),
  'val': (
    Share(3, 194), Share(3, 210), Share(96, 1920),
    Share(70, 785), Share(75, 785), Share(3, 60),
  ),
  'other': (
    Share(0, 0), Share(0, 0), Share(1, 80),
    Share(39, 506), Share(42, 532), Share(0, 0),
  ),
}  # fmt: skip
SYSU_GROUPS = {'test': 96, 'train': 296, 'val': 99, 'other': 42}


class Picture(NamedTuple):
  """One file of a tree and what is drawn on it."""

  path: pathlib.Path
  task: Task
  size: tuple[int, int] | None = None  # width and height; None: as rendered


def write_sysu(root: pathlib.Path):
  """45,863 JPEGs in cam1 to cam6, and exp/ with splits and permutations."""
  members = _sysu_members()
  counts = {}
  for group, shares in SYSU.items():
    for camera, share in enumerate(shares, 1):
      # Cameras 5 and 6 see the last of them, so that everybody is seen in both
      # modalities.
      skip = len(members[group]) - share.identities if camera > 4 else 0
      people = members[group][skip:][: share.identities]
      for identity, count in _spread(people, share.images):
        counts[identity, camera] = count
  (root / 'exp').mkdir(parents=True)
  for name in ('train', 'val', 'test'):
    text = ','.join(map(str, sorted(members[name])))
    (root / 'exp' / f'{name}_id.txt').write_text(text)
  everybody = np.sort(
    np.concatenate([members[g] for g in SYSU if g != 'other'])
  )
  (root / 'exp' / 'available_id.txt').write_text(','.join(map(str, everybody)))
  _write_permutations(root / 'exp' / 'rand_perm_cam.mat', counts)
  _write(
    Picture(
      root / f'cam{camera}' / f'{identity:04d}' / f'{frame + 1:04d}.jpg',
      Task(1, identity, camera, frame),
    )
    for (identity, camera), count in sorted(counts.items())
    for frame in range(count)
  )


def write_regdb(root: pathlib.Path):
  """8,240 BMPs of 412 people, and the lists of ten splits."""
  files = {
    (identity, name): [
      f'{name}/{identity}/person_front_{name[0].lower()}'
      f'_{10 * identity + k:05d}_{identity}.bmp'
      for k in range(10)
    ]
    for identity in range(1, 413)
    for name in ('Visible', 'Thermal')
  }
  (root / 'idx').mkdir(parents=True)
  for trial in range(1, 11):
    order = np.random.default_rng((7, trial)).permutation(412) + 1
    for split, people in (('train', order[:206]), ('test', order[206:])):
      for name in ('Visible', 'Thermal'):
        lines = [
          f'{path} {label}'
          for label, identity in enumerate(sorted(people.tolist()))
          for path in files[identity, name]
        ]
        path = root / 'idx' / f'{split}_{name.lower()}_{trial}.txt'
        path.write_text('\n'.join(lines) + '\n')
  _write(
    Picture(
      root / path,
      Task(2, identity, 1 if name == 'Visible' else 6, k),
      (64, 128),
    )
    for (identity, name), paths in files.items()
    for k, path in enumerate(paths)
  )


def write_npu(root: pathlib.Path):
  """NPU-ReID-S: 16,980 visible and 19,500 infrared images of 310 people."""
  people = list(range(1, 311))
  root.mkdir(parents=True)
  lines = ['camera,modality,indoor,location']
  pictures = []
  for number in range(1, 9):
    kind = 'visible' if number <= 4 else 'infrared'
    lines.append(f'{number},{kind},{"yes" if number % 2 else "no"},{number}')
    share = {'visible': 16980, 'infrared': 19500}[kind] // 4
    drawn = (1, 2, 4, 5, 3, 6, 3, 6)[number - 1]
    seed = 3 if number <= 6 else 4
    for identity, count in _spread(people, share):
      pictures += [
        Picture(
          root / f'cam{number}' / f'{identity:04d}' / f'{frame + 1:04d}.jpg',
          Task(seed, identity, drawn, frame),
        )
        for frame in range(count)
      ]
  (root / 'cameras.csv').write_text('\n'.join(lines) + '\n')
  (root / 'train_id.txt').write_text(','.join(map(str, people[:248])))
  (root / 'test_id.txt').write_text(','.join(map(str, people[248:])))
  _write(pictures)


def _sysu_members() -> dict[str, list[int]]:
  """Whose identity belongs to which list, out of 533 numbers."""
  order = (np.random.default_rng(11).permutation(533) + 1).tolist()
  members, start = {}, 0
  for group, size in SYSU_GROUPS.items():
    members[group] = order[start : start + size]
    start += size
  return members


def _spread(people: list[int], images: int) -> Iterator[tuple[int, int]]:
  """Shares images evenly among people."""
  for place, identity in enumerate(people):
    extra = place < images % len(people)
    yield identity, images // len(people) + extra


def _write_permutations(path: pathlib.Path, counts: dict[tuple[int, int], int]):
  """The cell array rand_perm_cam{camera}{identity}(trial, image), 1-based."""
  rng = np.random.default_rng(13)
  cameras = np.empty((6, 1), object)
  for camera in range(1, 7):
    cells = np.empty((533, 1), object)
    for identity in range(1, 534):
      count = counts.get((identity, camera), 0)
      rows = [rng.permutation(count) + 1 for _ in range(10)]
      cells[identity - 1, 0] = np.array(rows) if count else np.zeros((0, 0))
    cameras[camera - 1, 0] = cells
  scipy.io.savemat(path, {'rand_perm_cam': cameras})


def _write(pictures: Iterable[Picture]):
  pictures = list(pictures)
  rendered = render_all([picture.task for picture in pictures])
  progress = tqdm(
    zip(pictures, rendered, strict=True), total=len(pictures), unit='image'
  )
  for picture, (_, jpeg) in progress:
    picture.path.parent.mkdir(parents=True, exist_ok=True)
    if picture.size is None:
      picture.path.write_bytes(jpeg)
    else:
      with Image.open(io.BytesIO(jpeg)) as image:
        image.resize(picture.size).save(picture.path)


def main():
  writers = {
    'sysu_mm01': write_sysu,
    'regdb': write_regdb,
    'npu_reid': write_npu,
  }
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('dataset', choices=writers)
  parser.add_argument('folder', type=pathlib.Path)
  options = parser.parse_args()
  if options.folder.exists():
    parser.error(f'{options.folder} exists')
  writers[options.dataset](options.folder)


if __name__ == '__main__':
  main()
