"""Batches of a feed: the same from either residency, from any step on."""

import itertools

import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jaxreid import sharding
from jaxreid.data import feed as feed_module
from jaxreid.data.feed import open_feed
from jaxreid.data.sampler import IdentitySampler
from jaxreid.data.source import INFRARED, VISIBLE, Records


def _table(identities=5, images=6):
  identity, modality = np.array(
    [
      (person + 20, m)
      for person in range(identities)
      for m in (VISIBLE, INFRARED)
      for _ in range(images)
    ]
  ).T
  rng = np.random.default_rng(0)
  order = rng.permutation(len(identity))
  zeros = np.zeros_like(identity)
  records = Records(
    identity[order], zeros, zeros, modality[order], zeros, zeros
  )
  pixels = rng.integers(0, 256, (len(identity), 6, 4, 3)).astype(np.uint8)
  return pixels, records


PIXELS, RECORDS = _table()
SAMPLER = IdentitySampler(RECORDS, 4, 4, seed=2)


@pytest.fixture(scope='module')
def mesh():
  return sharding.make_mesh()


def _batches(feed, start, count):
  gather = jax.jit(feed.gather)
  return [
    jax.tree.map(np.asarray, gather(feed.pixels, inputs))
    for inputs in itertools.islice(feed.inputs(start), count)
  ]


@pytest.mark.parametrize('residency', ['host', 'device'])
def test_a_batch_holds_the_rows_of_the_sampler(mesh, residency):
  feed = open_feed(PIXELS, SAMPLER, mesh, residency)
  for step, batch in enumerate(_batches(feed, 0, 3)):
    rows = SAMPLER[step]
    assert set(batch) == {'visible', 'infrared', 'label'}
    for name, modality in (('visible', VISIBLE), ('infrared', INFRARED)):
      assert batch[name].dtype == np.uint8
      for i in range(16):
        row = int(rows[name][i])
        assert RECORDS.modality[row] == modality
        assert RECORDS.identity[row] == SAMPLER.names[batch['label'][i]]
        assert_array_equal(batch[name][i], PIXELS[row])
    assert batch['label'].dtype == np.int32


def test_both_residencies_give_identical_batches(mesh):
  host = _batches(open_feed(PIXELS, SAMPLER, mesh, 'host'), 3, 4)
  device = _batches(open_feed(PIXELS, SAMPLER, mesh, 'device'), 3, 4)
  for left, right in zip(host, device, strict=True):
    assert left.keys() == right.keys()
    for name in left:
      assert left[name].dtype == right[name].dtype
      assert_array_equal(left[name], right[name])


@pytest.mark.parametrize('residency', ['host', 'device'])
def test_starting_at_a_step_equals_running_to_it(mesh, residency):
  feed = open_feed(PIXELS, SAMPLER, mesh, residency)
  from_start = _batches(feed, 0, 9)
  for start in (1, 7):
    for left, right in zip(
      from_start[start:], _batches(feed, start, 9 - start), strict=True
    ):
      jax.tree.map(assert_array_equal, left, right)
  # Steps differ, or the above says nothing.
  assert (from_start[1]['visible'] != from_start[7]['visible']).any()


@pytest.mark.parametrize('residency', ['host', 'device'])
def test_what_a_step_receives_is_spread_in_rows(mesh, residency):
  feed = open_feed(PIXELS, SAMPLER, mesh, residency)
  inputs = next(iter(feed.inputs(0)))
  rows = sharding.batch_sharding(mesh)
  for name, array in inputs.items():
    assert array.sharding.is_equivalent_to(rows, array.ndim), name
    assert len(array.addressable_shards) == 8
    assert array.addressable_shards[0].data.shape[0] == 2
  if residency == 'device':
    whole = sharding.replicated(mesh)
    assert feed.pixels.sharding.is_equivalent_to(whole, 4)
    assert {x.ndim for x in inputs.values()} == {1}
  else:
    assert feed.pixels is None


def test_a_memory_map_is_a_table(mesh, tmp_path):
  np.save(tmp_path / 'table.npy', PIXELS)
  mapped = np.load(tmp_path / 'table.npy', mmap_mode='r')
  in_memory = _batches(open_feed(PIXELS, SAMPLER, mesh, 'host'), 0, 2)
  for residency in ('host', 'device'):
    feed = open_feed(mapped, SAMPLER, mesh, residency)
    for left, right in zip(in_memory, _batches(feed, 0, 2), strict=True):
      jax.tree.map(assert_array_equal, left, right)


def test_auto_is_host_on_a_cpu(mesh):
  assert open_feed(PIXELS, SAMPLER, mesh, 'auto').pixels is None
  assert open_feed(PIXELS, SAMPLER, mesh).pixels is None


class _Accelerator:
  platform = 'gpu'

  def __init__(self, stats):
    self._stats = stats

  def memory_stats(self):
    return self._stats


@pytest.mark.parametrize(
  ('stats', 'resident'),
  [
    ({'bytes_limit': 4 * PIXELS.nbytes}, True),
    ({'bytes_limit': 3 * PIXELS.nbytes}, False),
    ({}, False),
    (None, False),
  ],
)
def test_auto_on_an_accelerator_depends_on_its_memory(
  mesh, monkeypatch, stats, resident
):
  monkeypatch.setattr(
    feed_module.jax, 'local_devices', lambda: [_Accelerator(stats)]
  )
  feed = open_feed(PIXELS, SAMPLER, mesh, 'auto')
  assert (feed.pixels is not None) == resident


def test_a_batch_that_the_devices_cannot_share_is_named(mesh):
  sampler = IdentitySampler(RECORDS, 3, 4)
  with pytest.raises(ValueError, match=r'12 images .* 8 devices'):
    open_feed(PIXELS, sampler, mesh)


def test_another_residency_is_named(mesh):
  with pytest.raises(ValueError, match=r"dataset.residency .*'disk'"):
    open_feed(PIXELS, SAMPLER, mesh, 'disk')
