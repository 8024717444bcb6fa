"""The published permutations that galleries of SYSU-MM01 are drawn by.

Synopsis:

  path = find_file(manual_dir)                  rand_perm_cam.mat, or None
  permutations = read_mat(path, frames, [])     checked, 0-based
  write(folder, permutations); read(folder)     gallery_permutations.npz

In the .mat file, rand_perm_cam{camera}{identity}(trial, :) is a permutation of
1..n, the images of that person and camera in the order of their names. Trial
t's gallery takes the first one (single-shot) or ten (multi-shot).
"""

import os
import pathlib
from collections.abc import Mapping

import numpy as np

FILE = 'gallery_permutations.npz'
MAT_FILE = 'rand_perm_cam.mat'

# (identity, camera) -> int64 [trials, n], 0-based frames
Permutations = dict[tuple[int, int], np.ndarray]


def find_file(manual_dir: str | os.PathLike) -> pathlib.Path | None:
  """Returns rand_perm_cam.mat if it lies in a sensible place, else None."""
  folder = pathlib.Path(manual_dir).expanduser()
  places = ('exp', '.', '*/exp', '*', 'evaluation/data_split')
  for place in places:
    for path in sorted(folder.glob(f'{place}/{MAT_FILE}')):
      return path.resolve()
  return None


def read_mat(
  path: pathlib.Path,
  frames: Mapping[tuple[int, int], int],
  problems: list[str],
  exact: bool = True,
) -> Permutations:
  """Reads the permutations of the people and cameras in `frames`.

  Args:
    path: of rand_perm_cam.mat.
    frames: (identity, camera) -> number of images.
    problems: gets a line if the file cannot be read, and one for each identity
      and camera whose permutation is missing or contradicts `frames`.
    exact: whether `frames` are the files on disk, each of which a permutation
      has to name; otherwise they are the least number of them.

  Returns:
    (identity, camera) -> int64 [trials, n], 0-based frames.
  """
  import scipy.io  # takes longer than all else that opening a set imports

  try:
    cells = scipy.io.loadmat(path)['rand_perm_cam'].ravel()
  except KeyError:
    problems.append(f'{path}: has no variable rand_perm_cam')
    return {}
  except Exception as error:  # damaged files make scipy raise many kinds
    problems.append(f'{path}: cannot be read ({error})')
    return {}
  permutations = {}
  for (identity, camera), count in sorted(frames.items()):
    try:
      permutations[identity, camera] = _entry(
        cells, identity, camera, count, exact
      )
    except ValueError as error:
      problems.append(f'{path}: identity {identity}, camera {camera}: {error}')
  return permutations


def _entry(
  cells: np.ndarray, identity: int, camera: int, count: int, exact: bool
) -> np.ndarray:
  try:
    rows = np.atleast_2d(cells[camera - 1].ravel()[identity - 1])
    rows = rows.astype(np.int64, casting='unsafe')
  except (IndexError, TypeError) as error:
    raise ValueError('there is no permutation') from error
  n = rows.shape[1]
  if n < count or (exact and n > count):
    raise ValueError(f'the permutation is of {n} images, but {count} are there')
  expected = np.arange(1, n + 1)
  for trial, row in enumerate(rows, 1):
    if not np.array_equal(np.sort(row), expected):
      raise ValueError(
        f'trial {trial} is no permutation of 1 to {n} ({row[:9].tolist()}...)'
      )
  return rows - 1


def write(folder: str | os.PathLike, permutations: Permutations):
  """Writes them into a prepared folder, in one move.

  The rows of all entries lie one behind the other in `frames`, with `trials`
  and `length` telling the shape of each.
  """
  keys = np.array(sorted(permutations), np.int64).reshape(-1, 2)
  entries = [permutations[key] for key in sorted(permutations)]
  path = pathlib.Path(folder) / FILE
  part = path.with_suffix('.part.npz')
  np.savez_compressed(
    part,
    identity=keys[:, 0],
    camera=keys[:, 1],
    trials=np.array([entry.shape[0] for entry in entries], np.int64),
    length=np.array([entry.shape[1] for entry in entries], np.int64),
    frames=np.concatenate([entry.ravel() for entry in entries]),
  )
  part.replace(path)


def read(folder: str | os.PathLike) -> Permutations | None:
  """Returns the permutations of a prepared folder; None if it has none."""
  path = pathlib.Path(folder) / FILE
  if not path.exists():
    return None
  with np.load(path) as arrays:
    shapes = zip(arrays['trials'], arrays['length'], strict=True)
    ends = np.cumsum(arrays['trials'] * arrays['length'])
    entries = np.split(arrays['frames'], ends[:-1])
    keys = zip(arrays['identity'], arrays['camera'], strict=True)
    return {
      (int(identity), int(camera)): entry.reshape(shape)
      for (identity, camera), entry, shape in zip(
        keys, entries, shapes, strict=True
      )
    }
