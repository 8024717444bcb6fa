"""Rows of a step: identity-aligned, distinct, a function of (seed, step)."""

import numpy as np
import pytest

from jaxreid.data.sampler import IdentitySampler
from jaxreid.data.source import INFRARED, VISIBLE, Records


def make_records(visible=(7, 5, 9, 6), infrared=(5, 6, 5, 4)) -> Records:
  rows = [
    (10 * person + 3, modality)
    for person, counts in enumerate(zip(visible, infrared, strict=True))
    for modality, count in zip((VISIBLE, INFRARED), counts, strict=True)
    for _ in range(count)
  ]
  rng = np.random.default_rng(0)
  identity, modality = np.array(rows)[rng.permutation(len(rows))].T
  other = np.zeros_like(identity)
  return Records(identity, other, other, modality, other, other)


def test_rows_are_identity_aligned_and_distinct():
  records = make_records()
  sampler = IdentitySampler(records, 3, 4, seed=1)
  for step in range(50):
    rows = sampler[step]
    expected = np.array(sampler.names)[rows['label']]
    for name, modality in (('visible', VISIBLE), ('infrared', INFRARED)):
      assert len(set(rows[name].tolist())) == 12
      assert (records.identity[rows[name]] == expected).all()
      assert (records.modality[rows[name]] == modality).all()
    labels = rows['label'].reshape(3, 4)
    assert (labels == labels[:, :1]).all()
    assert len(set(labels[:, 0].tolist())) == 3


def test_every_image_is_drawn_in_time():
  records = make_records()
  sampler = IdentitySampler(records, 2, 4)
  drawn = {int(r) for t in range(200) for r in sampler[t]['visible']}
  assert drawn == set(np.flatnonzero(records.modality == VISIBLE).tolist())


def test_a_step_depends_on_seed_and_step_alone():
  records = make_records()
  first = IdentitySampler(records, 2, 3, seed=5)
  again = IdentitySampler(records, 2, 3, seed=5)
  _ = [again[t] for t in range(7)]
  np.testing.assert_array_equal(first[9]['visible'], again[9]['visible'])
  other = IdentitySampler(records, 2, 3, seed=6)
  assert any(
    (first[t]['visible'] != other[t]['visible']).any() for t in range(5)
  )
  assert any(
    (first[t]['visible'] != first[t + 1]['visible']).any() for t in range(5)
  )


def test_epoch_is_a_pass_over_the_larger_modality():
  # 27 visible and 20 infrared images, 8 of each per step.
  assert IdentitySampler(make_records(), 2, 4).steps_per_epoch == 4


def test_held_out_identities_are_never_drawn():
  records = make_records()
  sampler = IdentitySampler(records, 2, 4, held_out=(3, 23))
  assert sampler.names == [13, 33]
  drawn = {
    int(i) for t in range(50) for i in records.identity[sampler[t]['visible']]
  }
  assert drawn == {13, 33}


@pytest.mark.parametrize(
  ('identities', 'images', 'message'),
  [
    (1, 4, 'at least 2 identities'),
    (2, 1, 'at least 2 identities and 2 images'),
    (5, 4, 'has 4 identities'),
    (2, 5, 'identity 33 has 4 infrared'),
    (2, 6, 'identity 13 has 5 visible'),
  ],
)
def test_what_the_data_cannot_serve_is_named(identities, images, message):
  with pytest.raises(ValueError, match=message):
    IdentitySampler(make_records(), identities, images)
