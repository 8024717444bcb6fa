import random

import numpy as np
import pytest

from jaxreid.data.source import Records
from jaxreid.evaluation.protocols import (
  single_modality,
  standard_protocols,
  sysu,
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
