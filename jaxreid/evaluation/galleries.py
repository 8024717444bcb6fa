"""Gallery images drawn per identity and camera.

Synopsis:

  groups = group(records, VISIBLE, cameras=(1, 2, 4, 5))
  draw = drawer(records, groups, shots=1, permutations=None, name='all')
  rows = draw(0)    # of trial 0
"""

import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from jaxreid.data.source import Records

# (identity, camera) -> [trials, n] frames in the order of drawing.
Permutations = Mapping[tuple[int, int], Int[np.ndarray, 't n']]
# (identity, camera) -> rows by frame.
Groups = dict[tuple[int, int], list[int]]


def group(records: Records, modality: int, cameras: Sequence[int]) -> Groups:
  """Rows per identity and camera, to be drawn from.

  Args:
    records: of all images.
    modality: VISIBLE or INFRARED, of the gallery.
    cameras: of the gallery; within an identity they are drawn from in this
      order.

  Returns:
    (identity, camera) -> rows by frame; keys in the order of drawing.
  """
  chosen = np.flatnonzero(records.modality == modality)
  order = chosen[np.argsort(records.frame[chosen], kind='stable')]
  groups: Groups = {}
  for row in order.tolist():
    key = (int(records.identity[row]), int(records.camera[row]))
    if key[1] in cameras:
      groups.setdefault(key, []).append(row)
  place = {camera: i for i, camera in enumerate(cameras)}
  return dict(sorted(groups.items(), key=lambda x: (x[0][0], place[x[0][1]])))


def drawer(
  records: Records,
  groups: Groups,
  shots: int,
  permutations: Permutations | None,
  name: str,
  fewer: bool = False,
) -> Callable[[int], Int[np.ndarray, 'g']]:
  """A function from the number of a trial to its gallery rows.

  Args:
    records: as in `group`.
    groups: what to draw from.
    shots: images per group.
    permutations: published frames in the order of drawing; None for Python's
      `random` seeded with the number of the trial.
    name: of the protocol, for errors.
    fewer: whether a group of fewer than `shots` images gives all of them.

  Returns:
    trial -> rows, group after group.

  Raises:
    ValueError: if a group has fewer than `shots` images and may not; the
      function, if a group has no permutation.
  """
  for (identity, camera), rows in groups.items():
    if len(rows) < shots and not fewer:
      raise ValueError(
        f"'{name}' draws {shots} images per identity and camera, but identity "
        f'{identity} has only {len(rows)} in camera {camera}.'
      )
  if permutations is None:
    return lambda trial: _draw_at_random(groups, shots, trial)
  frames = records.frame.tolist()
  return lambda trial: _draw_permuted(
    groups, shots, trial, permutations, frames
  )


def _draw_at_random(
  groups: Groups, shots: int, seed: int
) -> Int[np.ndarray, 'g']:
  generator = random.Random(seed)
  gallery: list[int] = []
  for rows in groups.values():
    # One choice and a sample of one use up the generator differently.
    if shots == 1:
      gallery.append(generator.choice(rows))
    else:
      gallery.extend(generator.sample(rows, min(shots, len(rows))))
  return np.array(gallery)


def _draw_permuted(
  groups: Groups,
  shots: int,
  trial: int,
  permutations: Permutations,
  frames: Sequence[int],
) -> Int[np.ndarray, 'g']:
  gallery: list[int] = []
  for (identity, camera), rows in groups.items():
    permuted = permutations.get((identity, camera))
    if permuted is None or trial >= len(permuted):
      raise ValueError(
        f'rand_perm_cam.mat has no permutation of trial {trial + 1} for '
        f'identity {identity} in camera {camera}; draw by '
        "--config.evaluation.gallery='random'."
      )
    row_of = {frames[row]: row for row in rows}
    # A frame that was left out as corrupt gives its place to the next one.
    there = [row_of[f] for f in permuted[trial].tolist() if f in row_of]
    if len(there) < shots:
      raise ValueError(
        f'rand_perm_cam.mat names only {len(there)} of the {len(rows)} images '
        f'of identity {identity} in camera {camera}; it belongs to another '
        'copy of the dataset.'
      )
    gallery.extend(there[:shots])
  return np.array(gallery)
