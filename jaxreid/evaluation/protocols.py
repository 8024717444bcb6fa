"""Who is searched for among whom: protocols as index arrays.

Synopsis:

  protocol = sysu(records, search='indoor', shots=10)
  for trial in protocol.trials:
    ... trial.query_rows, trial.gallery_rows, trial.comparable

A row is a position in the records of the test images. One rule of exclusion
holds everywhere: query and gallery images of the same location are not
comparable, since the scene would give the person away. In SYSU-MM01 this hides
camera 2 from the queries of camera 3, which hangs in the same room.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from jaxreid.data.source import INFRARED, VISIBLE, Records

_MODALITY = {'visible': VISIBLE, 'infrared': INFRARED, 'gray': VISIBLE}
_GALLERY_CAMERAS = {'all': (1, 2, 4, 5), 'indoor': (1, 2)}
_QUERY_CAMERAS = (3, 6)
PYTHON_RANDOM = 'drawn by Python random seeded with the trial number'


class Trial(NamedTuple):
  """One draw of queries and gallery.

  Attributes:
    query_rows: [Nq] rows of the queries.
    gallery_rows: [Ng] rows of the gallery, in the order drawn.
    records: the table that the rows point into.
  """

  query_rows: Int[np.ndarray, 'q']
  gallery_rows: Int[np.ndarray, 'g']
  records: Records

  @property
  def query_ids(self) -> Int[np.ndarray, 'q']:
    """[Nq] identities of the queries."""
    return self.records.identity[self.query_rows]

  @property
  def gallery_ids(self) -> Int[np.ndarray, 'g']:
    """[Ng] identities of the gallery."""
    return self.records.identity[self.gallery_rows]

  @property
  def comparable(self) -> Bool[np.ndarray, 'q g']:
    """[Nq, Ng] True where query and gallery are of different locations."""
    location = self.records.location
    queries, gallery = location[self.query_rows], location[self.gallery_rows]
    return queries[:, None] != gallery[None, :]


class Protocol(NamedTuple):
  """A search and its trials.

  Attributes:
    name: for tables, such as 'infrared->visible, all, single-shot'.
    query_modality: 'visible', 'infrared' or 'gray', which embedding the
      queries use; 'gray' rows are visible rows embedded as gray.
    gallery_modality: the same for the gallery.
    trials: results are means over these.
    unique_identities: whether CMC counts identities in place of images.
    draw: by which convention the galleries were drawn. Numbers of different
      conventions do not compare exactly.
  """

  name: str
  query_modality: str
  gallery_modality: str
  trials: Sequence[Trial]
  unique_identities: bool
  draw: str = PYTHON_RANDOM


def sysu(
  records: Records, search: str = 'all', shots: int = 1, trials: int = 10
) -> Protocol:
  """The SYSU-MM01 protocol: infrared queries, visible gallery.

  Queries are all infrared images of cameras 3 and 6. The gallery has, per
  identity and camera, `shots` random images (Wu et al., "RGB-Infrared
  Cross-Modality Person Re-Identification", ICCV 2017, section 5.1), drawn as
  most papers' code does: Python's `random` seeded with the number of the
  trial, identities in ascending order, cameras in the order of the list,
  images sorted by frame; `choice` for one shot, `sample` (without
  replacement) for more. The dataset's authors publish fixed permutations
  instead, which give slightly different numbers.

  Args:
    records: the test images, with SYSU-MM01's camera numbers.
    search: 'all' (gallery cameras 1, 2, 4, 5) or 'indoor' (1, 2).
    shots: gallery images per identity and camera, 1 or 10 in papers.
    trials: number of galleries drawn.

  Returns:
    The protocol, with the CMC counted over identities.

  Raises:
    ValueError: on another search, if there are no queries or no gallery, or
      if an identity has fewer than `shots` images in a camera that it was
      seen by.
  """
  if search not in _GALLERY_CAMERAS:
    raise ValueError(f"A SYSU search is 'all' or 'indoor', not {search!r}.")
  infrared = (records.modality == INFRARED) & np.isin(
    records.camera, _QUERY_CAMERAS
  )
  cameras = _GALLERY_CAMERAS[search]
  name = f'infrared->visible, {search}, {_shots(shots)}'
  drawn = _trials(records, infrared, VISIBLE, cameras, shots, trials, name)
  return Protocol(name, 'infrared', 'visible', drawn, True)


def single_modality(
  records: Records,
  query: str,
  gallery: str,
  shots: int = 10,
  trials: int = 10,
) -> Protocol:
  """Searches within one modality, or against its gray version.

  Queries are all images of the query modality; the gallery has `shots` images
  per identity and camera of the gallery modality, drawn as in `sysu` with the
  cameras in ascending order. For table 3 of Alehdaghi et al., ECCV 2022
  workshops: visible->visible, infrared->infrared, gray->gray and
  infrared->gray. A query never meets itself, since it is of its own location.

  Args:
    records: the test images.
    query: 'visible', 'infrared' or 'gray'.
    gallery: the same.
    shots: gallery images per identity and camera.
    trials: number of galleries drawn.

  Returns:
    The protocol, with the CMC counted over identities.

  Raises:
    ValueError: on another modality, if there are no queries or no gallery, or
      if an identity has fewer than `shots` images in a camera that it was
      seen by.
  """
  for modality in (query, gallery):
    if modality not in _MODALITY:
      raise ValueError(
        f'A modality is one of {[*_MODALITY]}, not {modality!r}.'
      )
  wanted = records.modality == _MODALITY[query]
  kind = _MODALITY[gallery]
  cameras = np.unique(records.camera[records.modality == kind]).tolist()
  name = f'{query}->{gallery}, all, {_shots(shots)}'
  drawn = _trials(records, wanted, kind, cameras, shots, trials, name)
  return Protocol(name, query, gallery, drawn, True)


def standard_protocols(records: Records, trials: int = 10) -> list[Protocol]:
  """The eight searches of a results table on a SYSU-like camera layout.

  Infrared->visible in all and indoor search, single and multi shot; then the
  multi-shot searches visible->visible, infrared->infrared, gray->gray and
  infrared->gray.
  """
  crossed = [
    sysu(records, search, shots, trials)
    for search in ('all', 'indoor')
    for shots in (1, 10)
  ]
  pairs = (
    ('visible', 'visible'),
    ('infrared', 'infrared'),
    ('gray', 'gray'),
    ('infrared', 'gray'),
  )
  return crossed + [
    single_modality(records, query, gallery, trials=trials)
    for query, gallery in pairs
  ]


def _shots(shots: int) -> str:
  named = {1: 'single-shot', 10: 'multi-shot'}
  return named.get(shots, f'{shots}-shot')


def _trials(
  records: Records,
  is_query: Bool[np.ndarray, 'n'],
  gallery_modality: int,
  cameras: Sequence[int],
  shots: int,
  trials: int,
  name: str,
) -> list[Trial]:
  groups = _groups(records, gallery_modality, cameras)
  queries = np.flatnonzero(is_query)
  if not len(queries) or not groups:
    raise ValueError(
      f"'{name}' finds {len(queries)} queries and {len(groups)} gallery "
      'groups among the records; both are needed. Check the camera numbers '
      'and modalities of the dataset.'
    )
  return [
    Trial(queries, _draw(groups, shots, seed, name), records)
    for seed in range(trials)
  ]


def _groups(
  records: Records, modality: int, cameras: Sequence[int]
) -> dict[tuple[int, int], list[int]]:
  """(identity, camera) -> rows by frame; keys in the order of drawing."""
  chosen = np.flatnonzero(records.modality == modality)
  order = chosen[np.argsort(records.frame[chosen], kind='stable')]
  groups: dict[tuple[int, int], list[int]] = {}
  for row in order.tolist():
    key = (int(records.identity[row]), int(records.camera[row]))
    if key[1] in cameras:
      groups.setdefault(key, []).append(row)
  place = {camera: i for i, camera in enumerate(cameras)}
  return dict(sorted(groups.items(), key=lambda x: (x[0][0], place[x[0][1]])))


def _draw(
  groups: dict[tuple[int, int], list[int]], shots: int, seed: int, name: str
) -> Int[np.ndarray, 'g']:
  generator = random.Random(seed)
  gallery: list[int] = []
  for (identity, camera), rows in groups.items():
    if len(rows) < shots:
      raise ValueError(
        f"'{name}' draws {shots} images per identity and camera, but identity "
        f'{identity} has only {len(rows)} in camera {camera}.'
      )
    # One choice and a sample of one use up the generator differently.
    if shots == 1:
      gallery.append(generator.choice(rows))
    else:
      gallery.extend(generator.sample(rows, shots))
  return np.array(gallery)
