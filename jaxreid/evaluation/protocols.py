"""Who is searched for among whom: protocols as index arrays.

Synopsis:

  protocol = sysu(records, search='indoor', shots=10)
  for trial in protocol.trials:
    ... trial.query_rows, trial.gallery_rows, trial.comparable

A row is a position in the records of the test images. One rule of exclusion
holds everywhere: query and gallery images of the same location are not
comparable, since the scene would give the person away. In SYSU-MM01 this hides
camera 2 from the queries of camera 3, which hangs in the same room.

Galleries are drawn by one of two conventions, which every result names: the
permutations that the authors of SYSU-MM01 publish, or Python's `random` as
most papers' code uses it. Their numbers do not compare exactly.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from jaxreid.data.source import INFRARED, VISIBLE, Records
from jaxreid.evaluation.galleries import Groups, Permutations, drawer, group

LAYOUTS = ('sysu_mm01', 'regdb', 'npu_reid')
PYTHON_RANDOM = 'drawn by Python random seeded with the trial number'
OFFICIAL = 'drawn by the published permutations (rand_perm_cam.mat)'
EVERY_IMAGE = 'hold every image'

_MODALITY = {'visible': VISIBLE, 'infrared': INFRARED, 'gray': VISIBLE}
_SYSU_GALLERY = {'all': (1, 2, 4, 5), 'indoor': (1, 2)}
_SYSU_QUERIES = (3, 6)
_SINGLE_MODALITY = (
  ('visible', 'visible'),
  ('infrared', 'infrared'),
  ('gray', 'gray'),
  ('infrared', 'gray'),
)


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
  records: Records,
  search: str = 'all',
  shots: int = 1,
  trials: int = 10,
  permutations: Permutations | None = None,
) -> Protocol:
  """The SYSU-MM01 protocol: infrared queries, visible gallery.

  Queries are all infrared images of cameras 3 and 6, in both searches. The
  gallery has, per identity and camera, `shots` random images (Wu et al.,
  "RGB-Infrared Cross-Modality Person Re-Identification", ICCV 2017, section
  5.1). With `permutations` these are the first `shots` of the published
  permutation. Without, they are drawn as most papers' code does: Python's
  `random` seeded with the number of the trial, identities in ascending order,
  cameras in the order of the list, images sorted by frame; `choice` for one
  shot, `sample` (without replacement) for more.

  Args:
    records: the test images, with SYSU-MM01's camera numbers.
    search: 'all' (gallery cameras 1, 2, 4, 5) or 'indoor' (1, 2).
    shots: gallery images per identity and camera, 1 or 10 in papers.
    trials: number of galleries drawn.
    permutations: (identity, camera) -> [trials, n] frames, as a prepared
      SYSU-MM01 keeps them; None for Python's `random`.

  Returns:
    The protocol, with the CMC counted over identities.

  Raises:
    ValueError: on another search, if there are no queries or no gallery, if an
      identity has fewer than `shots` images in a camera that it was seen by,
      or if it has no permutation.
  """
  if search not in _SYSU_GALLERY:
    raise ValueError(f"A SYSU search is 'all' or 'indoor', not {search!r}.")
  name = f'infrared->visible, {search}, {_shots(shots)}'
  queries = np.flatnonzero(
    (records.modality == INFRARED) & np.isin(records.camera, _SYSU_QUERIES)
  )
  groups = group(records, VISIBLE, _SYSU_GALLERY[search])
  _check(name, queries, groups)
  draw = drawer(records, groups, shots, permutations, name)
  drawn = [Trial(queries, draw(number), records) for number in range(trials)]
  how = PYTHON_RANDOM if permutations is None else OFFICIAL
  return Protocol(name, 'infrared', 'visible', drawn, True, how)


def regdb(records: Records, query: str = 'visible') -> Protocol:
  """The RegDB protocol: every image of one modality against all of the other.

  One gallery, hence one trial here: the ten trials of a paper are ten splits
  of the identities, each with a model of its own.

  Args:
    records: the test images of a trial.
    query: 'visible' (visible->thermal) or 'infrared' (thermal->visible).

  Returns:
    The protocol, with the CMC counted over images.

  Raises:
    ValueError: on another query, or if a modality has no images.
  """
  gallery = _other(query)
  name = f'{query}->{gallery}'
  queries, drawn = (
    np.flatnonzero(records.modality == _MODALITY[modality])
    for modality in (query, gallery)
  )
  _check(name, queries, drawn)
  trial = Trial(queries, drawn, records)
  return Protocol(name, query, gallery, [trial], False, EVERY_IMAGE)


def npu_reid(
  records: Records,
  query: str = 'visible',
  search: str = 'all',
  shots: int = 1,
  trials: int = 10,
) -> Protocol:
  """The NPU-ReID protocol: either direction, in three scopes of search.

  Queries are all images of the query modality. The gallery has `shots` random
  images per identity and camera of the other modality, drawn as in `sysu`, or
  all of them where there are fewer. The paper's indoor search speaks of four
  indoor visible cameras, which contradicts its own layout of as many indoor as
  outdoor cameras; here it is the gallery modality's indoor cameras. Per camera
  and CMC over identities are SYSU-MM01's conventions, which the paper follows
  without saying how far.

  Args:
    records: the test images; their cameras are indoor or not.
    query: 'visible' or 'infrared'.
    search: 'all', 'indoor' or 'outdoor': the cameras of the gallery.
    shots: gallery images per identity and camera, 1 or 10 in the paper.
    trials: number of galleries drawn.

  Returns:
    The protocol, with the CMC counted over identities.

  Raises:
    ValueError: on another query or search, or if there are no queries or no
      gallery.
  """
  gallery = _other(query)
  scopes = {'all': (0, 1), 'indoor': (1,), 'outdoor': (0,)}
  if search not in scopes:
    raise ValueError(f'A search is one of {[*scopes]}, not {search!r}.')
  name = f'{query}->{gallery}, {search}, {_shots(shots)}'
  queries = np.flatnonzero(records.modality == _MODALITY[query])
  inside = np.isin(records.indoor, scopes[search])
  cameras = np.unique(records.camera[inside]).tolist()
  groups = group(records, _MODALITY[gallery], cameras)
  _check(name, queries, groups)
  draw = drawer(records, groups, shots, None, name, fewer=True)
  drawn = [Trial(queries, draw(number), records) for number in range(trials)]
  how, short = PYTHON_RANDOM, sum(len(g) < shots for g in groups.values())
  if short:
    how += f' ({short} of {len(groups)} groups have fewer images and give all)'
  return Protocol(name, query, gallery, drawn, True, how)


def single_modality(
  records: Records,
  query: str,
  gallery: str,
  shots: int = 10,
  trials: int = 10,
  permutations: Permutations | None = None,
) -> Protocol:
  """Searches within one modality, or against its gray version.

  Queries are all images of the query modality; the gallery has `shots` images
  per identity and camera of the gallery modality, drawn as in `sysu` with the
  cameras in ascending order. For table 3 of Alehdaghi et al., ECCV 2022
  workshops, and table III of Zhang et al. (TS-GAN): visible->visible,
  infrared->infrared, gray->gray and infrared->gray. A query never meets
  itself, since it is of its own location.

  Args:
    records: the test images.
    query: 'visible', 'infrared' or 'gray'.
    gallery: the same.
    shots: gallery images per identity and camera.
    trials: number of galleries drawn.
    permutations: as in `sysu`.

  Returns:
    The protocol, with the CMC counted over identities.

  Raises:
    ValueError: on another modality, if there are no queries or no gallery, if
      an identity has fewer than `shots` images in a camera that it was seen
      by, or if it has no permutation.
  """
  for modality in (query, gallery):
    if modality not in _MODALITY:
      raise ValueError(
        f'A modality is one of {[*_MODALITY]}, not {modality!r}.'
      )
  name = f'{query}->{gallery}, all, {_shots(shots)}'
  queries = np.flatnonzero(records.modality == _MODALITY[query])
  kind = _MODALITY[gallery]
  cameras = np.unique(records.camera[records.modality == kind]).tolist()
  groups = group(records, kind, cameras)
  _check(name, queries, groups)
  draw = drawer(records, groups, shots, permutations, name)
  drawn = [Trial(queries, draw(number), records) for number in range(trials)]
  how = PYTHON_RANDOM if permutations is None else OFFICIAL
  return Protocol(name, query, gallery, drawn, True, how)


def standard_protocols(
  records: Records,
  layout: str = 'sysu_mm01',
  trials: int = 10,
  permutations: Permutations | None = None,
) -> list[Protocol]:
  """The searches of a results table.

  'sysu_mm01' (and its like): infrared->visible in all and indoor search,
  single and multi shot; then the multi-shot searches visible->visible,
  infrared->infrared, gray->gray and infrared->gray. 'regdb': both directions.
  'npu_reid': both directions in all, indoor and outdoor search, single and
  multi shot.

  Args:
    records: the test images.
    layout: whose protocol, one of `LAYOUTS`.
    trials: number of galleries drawn.
    permutations: as in `sysu`; of no use to the others.

  Raises:
    ValueError: on another layout, and as the protocols do.
  """
  if layout == 'regdb':
    return [regdb(records, query) for query in ('visible', 'infrared')]
  if layout == 'npu_reid':
    return [
      npu_reid(records, query, search, shots, trials)
      for query in ('visible', 'infrared')
      for search in ('all', 'indoor', 'outdoor')
      for shots in (1, 10)
    ]
  if layout != 'sysu_mm01':
    raise ValueError(f'A layout is one of {LAYOUTS}, not {layout!r}.')
  crossed = [
    sysu(records, search, shots, trials, permutations)
    for search in ('all', 'indoor')
    for shots in (1, 10)
  ]
  return crossed + [
    single_modality(records, query, gallery, 10, trials, permutations)
    for query, gallery in _SINGLE_MODALITY
  ]


def validation_protocol(
  records: Records, layout: str = 'sysu_mm01'
) -> Protocol:
  """The one search that checkpoints are judged by: infrared->visible.

  All cameras, single shot; on RegDB every image.
  """
  if layout == 'regdb':
    return regdb(records, 'infrared')
  if layout == 'npu_reid':
    return npu_reid(records, 'infrared')
  return sysu(records)


def _other(query: str) -> str:
  names = {'visible': 'infrared', 'infrared': 'visible'}
  if query not in names:
    raise ValueError(f"Queries are 'visible' or 'infrared', not {query!r}.")
  return names[query]


def _shots(shots: int) -> str:
  named = {1: 'single-shot', 10: 'multi-shot'}
  return named.get(shots, f'{shots}-shot')


def _check(
  name: str, queries: Sequence | np.ndarray, gallery: Groups | np.ndarray
):
  if not len(queries) or not len(gallery):
    raise ValueError(
      f"'{name}' finds {len(queries)} queries and {len(gallery)} gallery "
      'groups among the records; both are needed. Check the camera numbers, '
      'modalities and indoor flags of the dataset.'
    )
