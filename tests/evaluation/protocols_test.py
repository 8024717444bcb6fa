import random

import numpy as np
import pytest

from jaxreid.data.source import Records
from jaxreid.evaluation.protocols import (
  npu_reid,
  regdb,
  single_modality,
  standard_protocols,
  sysu,
  validation_protocol,
)

LOCATION = {1: 1, 2: 2, 3: 2, 4: 4, 5: 5, 6: 6}


def _rows(identities=(31, 4, 17), images=11):
  """Shuffled (identity, camera, frame); identity 17 is missing indoors."""
  rows = [
    (identity, camera, 3 * k + camera)
    for identity in identities
    for camera in range(1, 7)
    if not (identity == 17 and camera in (1, 2))
    for k in range(images + camera % 3)
  ]
  random.Random(5).shuffle(rows)
  return rows


def _records(rows):
  identity, camera, frame = (np.array(x) for x in zip(*rows, strict=True))
  location = np.array([LOCATION[c] for c in camera.tolist()])
  modality = np.isin(camera, [3, 6]).astype(int)
  return Records(
    identity, camera, location, modality, frame, (camera <= 3).astype(int)
  )


def _loop_gallery(rows, cameras, trial):
  """The convention as most code has it: seed, then draw from file names."""
  random.seed(trial)
  gallery = []
  for identity in sorted({row[0] for row in rows}):
    for camera in cameras:
      files = [r for r in rows if r[0] == identity and r[1] == camera]
      files = sorted(f'{frame:04d}.jpg' for _, _, frame in files)
      if not files:
        continue
      gallery.append((identity, camera, int(random.choice(files)[:4])))
  return gallery


@pytest.mark.parametrize(
  ('search', 'cameras'), [('all', (1, 2, 4, 5)), ('indoor', (1, 2))]
)
def test_sysu_single_shot(search, cameras):
  rows = _rows()
  protocol = sysu(_records(rows), search)
  assert protocol.name == f'infrared->visible, {search}, single-shot'
  assert (protocol.query_modality, protocol.gallery_modality) == (
    'infrared',
    'visible',
  )
  assert protocol.unique_identities
  assert 'Python random' in protocol.draw
  assert len(protocol.trials) == 10
  queries = [i for i, row in enumerate(rows) if row[1] in (3, 6)]
  for number, trial in enumerate(protocol.trials):
    assert trial.query_rows.tolist() == queries
    gallery = [rows[i] for i in trial.gallery_rows]
    assert gallery == _loop_gallery(rows, cameras, number)


@pytest.mark.parametrize(
  ('search', 'cameras'), [('all', (1, 2, 4, 5)), ('indoor', (1, 2))]
)
def test_sysu_multi_shot(search, cameras):
  rows = _rows()
  protocol = sysu(_records(rows), search, shots=10, trials=3)
  assert protocol.name == f'infrared->visible, {search}, multi-shot'
  for number, trial in enumerate(protocol.trials):
    generator, expected = random.Random(number), []
    for identity in (4, 17, 31):
      for camera in cameras:
        group = sorted(r for r in rows if r[:2] == (identity, camera))
        if group:
          expected += generator.sample(group, 10)
    assert [rows[i] for i in trial.gallery_rows] == expected
    assert len(set(trial.gallery_rows.tolist())) == len(expected)


def test_trials_differ_and_repeat():
  records = _records(_rows())
  first, second = sysu(records), sysu(records)
  galleries = [tuple(trial.gallery_rows) for trial in first.trials]
  assert len(set(galleries)) == 10
  assert galleries == [tuple(trial.gallery_rows) for trial in second.trials]


@pytest.mark.parametrize(
  ('query', 'gallery'),
  [
    ('visible', 'visible'),
    ('infrared', 'infrared'),
    ('gray', 'gray'),
    ('infrared', 'gray'),
    ('visible', 'infrared'),
  ],
)
def test_single_modality(query, gallery):
  rows = _rows()
  protocol = single_modality(_records(rows), query, gallery, trials=2)
  assert protocol.name == f'{query}->{gallery}, all, multi-shot'
  assert protocol.query_modality == query
  assert protocol.gallery_modality == gallery
  cameras = {'infrared': (3, 6)}
  query_cameras = cameras.get(query, (1, 2, 4, 5))
  gallery_cameras = cameras.get(gallery, (1, 2, 4, 5))
  for trial in protocol.trials:
    assert trial.query_rows.tolist() == [
      i for i, row in enumerate(rows) if row[1] in query_cameras
    ]
    counts = {}
    for i in set(trial.gallery_rows.tolist()):
      counts[rows[i][:2]] = counts.get(rows[i][:2], 0) + 1
    groups = {row[:2] for row in rows if row[1] in gallery_cameras}
    assert counts == dict.fromkeys(groups, 10)


def test_equal_locations_are_not_comparable():
  rows = _rows()
  for protocol in standard_protocols(_records(rows), trials=1):
    trial = protocol.trials[0]
    for i, q in enumerate(trial.query_rows[::7]):
      for j, g in enumerate(trial.gallery_rows[::5]):
        same = LOCATION[rows[q][1]] == LOCATION[rows[g][1]]
        assert trial.comparable[7 * i, 5 * j] == (not same)
    assert trial.query_ids.tolist() == [rows[i][0] for i in trial.query_rows]
    assert trial.gallery_ids.tolist() == [
      rows[i][0] for i in trial.gallery_rows
    ]


def test_standard_protocols():
  names = [p.name for p in standard_protocols(_records(_rows()), trials=1)]
  assert names == [
    'infrared->visible, all, single-shot',
    'infrared->visible, all, multi-shot',
    'infrared->visible, indoor, single-shot',
    'infrared->visible, indoor, multi-shot',
    'visible->visible, all, multi-shot',
    'infrared->infrared, all, multi-shot',
    'gray->gray, all, multi-shot',
    'infrared->gray, all, multi-shot',
  ]


def test_too_few_images_are_named():
  rows = [r for r in _rows() if r[:2] != (31, 4)] + [(31, 4, k) for k in (1, 2)]
  with pytest.raises(ValueError, match=r'identity 31 has only 2 in camera 4'):
    sysu(_records(rows), shots=10)
  assert len(sysu(_records(rows), shots=1).trials) == 10


def test_errors():
  records = _records(_rows())
  with pytest.raises(ValueError, match="'all' or 'indoor', not 'outdoor'"):
    sysu(records, 'outdoor')
  with pytest.raises(ValueError, match="not 'thermal'"):
    single_modality(records, 'visible', 'thermal')
  visible_only = _records([r for r in _rows() if r[1] in (1, 2, 4, 5)])
  with pytest.raises(ValueError, match='finds 0 queries'):
    sysu(visible_only)


def _permutations(rows, trials=10, seed=3):
  """What rand_perm_cam.mat says, as 0-based places in the sorted images."""
  rng = np.random.default_rng(seed)
  counts = {}
  for row in rows:
    counts[row[:2]] = counts.get(row[:2], 0) + 1
  return {
    group: np.stack([rng.permutation(count) for _ in range(trials)])
    for group, count in counts.items()
  }


def _dense(rows):
  """The same rows with frames 0, 1, 2, ... per identity and camera."""
  frames = {}
  for row in sorted(rows):
    frames.setdefault(row[:2], []).append(row)
  return [(*row[:2], frames[row[:2]].index(row)) for row in rows]


@pytest.mark.parametrize('shots', [1, 10])
@pytest.mark.parametrize(
  ('search', 'cameras'), [('all', (1, 2, 4, 5)), ('indoor', (1, 2))]
)
def test_sysu_by_the_published_permutations(search, cameras, shots):
  rows = _dense(_rows())
  permutations = _permutations(rows)
  protocol = sysu(_records(rows), search, shots, permutations=permutations)
  assert 'rand_perm_cam.mat' in protocol.draw
  for number, trial in enumerate(protocol.trials):
    expected = [
      (identity, camera, int(frame))
      for identity in (4, 17, 31)
      for camera in cameras
      if (identity, camera) in permutations
      for frame in permutations[identity, camera][number][:shots]
    ]
    assert [rows[i] for i in trial.gallery_rows] == expected


def test_published_permutations_serve_single_modality_searches():
  rows = _dense(_rows())
  permutations = _permutations(rows)
  protocols = standard_protocols(
    _records(rows), trials=2, permutations=permutations
  )
  assert all('rand_perm_cam.mat' in p.draw for p in protocols)
  infrared = {p.name: p for p in protocols}[
    'infrared->infrared, all, multi-shot'
  ]
  assert [rows[i] for i in infrared.trials[1].gallery_rows] == [
    (identity, camera, int(frame))
    for identity in (4, 17, 31)
    for camera in (3, 6)
    for frame in permutations[identity, camera][1][:10]
  ]


def test_an_image_left_out_gives_its_place_to_the_next():
  rows = _dense(_rows())
  permutations = _permutations(rows)
  first, second = permutations[4, 2][0][:2].tolist()
  rows.remove((4, 2, first))
  trial = sysu(_records(rows), permutations=permutations).trials[0]
  assert (4, 2, second) in [rows[i] for i in trial.gallery_rows]


def test_permutations_that_do_not_fit_are_named():
  rows = _dense(_rows())
  permutations = _permutations(rows, trials=3)
  with pytest.raises(ValueError, match='of trial 4 for identity 4 in camera 1'):
    sysu(_records(rows), permutations=permutations)
  records = _records(rows)
  missing = {k: v for k, v in permutations.items() if k != (31, 4)}
  with pytest.raises(ValueError, match='for identity 31 in camera 4'):
    sysu(records, trials=3, permutations=missing)
  short = {**permutations, (31, 5): permutations[31, 5][:, :4]}
  with pytest.raises(ValueError, match='names only 4 of the 13 images'):
    sysu(records, shots=10, trials=3, permutations=short)


def _two_cameras(people=5, images=4):
  """RegDB: camera 1 visible, camera 2 infrared, in a mixed order."""
  rows = [
    (identity, camera, k)
    for identity in range(3, 3 + people)
    for camera in (1, 2)
    for k in range(images)
  ]
  random.Random(1).shuffle(rows)
  identity, camera, frame = (np.array(x) for x in zip(*rows, strict=True))
  return rows, Records(identity, camera, camera, camera - 1, frame, 0 * camera)


@pytest.mark.parametrize(
  ('query', 'gallery', 'cameras'),
  [('visible', 'infrared', (1, 2)), ('infrared', 'visible', (2, 1))],
)
def test_regdb(query, gallery, cameras):
  rows, records = _two_cameras()
  protocol = regdb(records, query)
  assert protocol.name == f'{query}->{gallery}'
  assert (protocol.query_modality, protocol.gallery_modality) == (
    query,
    gallery,
  )
  assert not protocol.unique_identities
  (trial,) = protocol.trials
  for found, camera in zip(
    (trial.query_rows, trial.gallery_rows), cameras, strict=True
  ):
    assert found.tolist() == [i for i, r in enumerate(rows) if r[1] == camera]
  assert trial.comparable.all()
  assert 'every image' in protocol.draw


# Camera -> (modality, indoor): as many indoor as outdoor in either modality.
NPU = {
  1: (0, 1), 2: (0, 0), 3: (0, 1), 4: (0, 0),
  5: (1, 1), 6: (1, 0), 7: (1, 1), 8: (1, 0),
}  # fmt: skip


def _eight_cameras(images=12, short=()):
  rows = [
    (identity, camera, k)
    for identity in (9, 2, 30)
    for camera in NPU
    for k in range(3 if (identity, camera) in short else images)
  ]
  random.Random(2).shuffle(rows)
  identity, camera, frame = (np.array(x) for x in zip(*rows, strict=True))
  modality, indoor = np.array([NPU[c] for c in camera.tolist()]).T
  return rows, Records(identity, camera, camera, modality, frame, indoor)


@pytest.mark.parametrize('shots', [1, 10])
@pytest.mark.parametrize('search', ['all', 'indoor', 'outdoor'])
@pytest.mark.parametrize('query', ['visible', 'infrared'])
def test_npu_reid(query, search, shots):
  rows, records = _eight_cameras()
  protocol = npu_reid(records, query, search, shots, trials=3)
  kind = ['visible', 'infrared'].index(query)
  gallery = ['visible', 'infrared'][1 - kind]
  assert protocol.gallery_modality == gallery
  shot = {1: 'single', 10: 'multi'}[shots]
  assert protocol.name == f'{query}->{gallery}, {search}, {shot}-shot'
  cameras = [
    camera
    for camera, (modality, indoor) in NPU.items()
    if modality != kind and search in ('all', ('outdoor', 'indoor')[indoor])
  ]
  for number, trial in enumerate(protocol.trials):
    assert trial.query_rows.tolist() == [
      i for i, row in enumerate(rows) if NPU[row[1]][0] == kind
    ]
    generator, expected = random.Random(number), []
    for identity in (2, 9, 30):
      for camera in cameras:
        group = sorted(r for r in rows if r[:2] == (identity, camera))
        if shots == 1:
          expected.append(generator.choice(group))
        else:
          expected += generator.sample(group, shots)
    assert [rows[i] for i in trial.gallery_rows] == expected
    assert trial.comparable.all()


def test_npu_reid_takes_all_images_where_there_are_few():
  rows, records = _eight_cameras(short=[(9, 6), (2, 8)])
  protocol = npu_reid(records, 'visible', 'outdoor', 10, trials=2)
  assert '2 of 6 groups have fewer images' in protocol.draw
  for trial in protocol.trials:
    drawn = [rows[i] for i in trial.gallery_rows]
    assert {r for r in drawn if r[:2] == (9, 6)} == {
      (9, 6, k) for k in range(3)
    }
    assert len(drawn) == 4 * 10 + 2 * 3


def test_standard_protocols_of_the_other_layouts():
  names = [p.name for p in standard_protocols(_two_cameras()[1], 'regdb')]
  assert names == ['visible->infrared', 'infrared->visible']
  protocols = standard_protocols(_eight_cameras()[1], 'npu_reid', trials=1)
  assert [p.name for p in protocols] == [
    f'{pair}, {search}, {shots}-shot'
    for pair in ('visible->infrared', 'infrared->visible')
    for search in ('all', 'indoor', 'outdoor')
    for shots in ('single', 'multi')
  ]
  with pytest.raises(ValueError, match="not 'market'"):
    standard_protocols(_two_cameras()[1], 'market')


def test_validation_protocol():
  assert validation_protocol(_records(_rows())).name == (
    'infrared->visible, all, single-shot'
  )
  assert validation_protocol(_two_cameras()[1], 'regdb').name == (
    'infrared->visible'
  )
  found = validation_protocol(_eight_cameras()[1], 'npu_reid')
  assert found.name == 'infrared->visible, all, single-shot'


def test_errors_of_the_other_layouts():
  _, records = _two_cameras()
  with pytest.raises(ValueError, match="not 'thermal'"):
    regdb(records, 'thermal')
  with pytest.raises(ValueError, match="not 'night'"):
    npu_reid(records, 'visible', 'night')
  with pytest.raises(ValueError, match='20 queries and 0 gallery groups'):
    npu_reid(records, 'visible', 'indoor')
