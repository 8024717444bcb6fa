"""Floors against hand values; links and hops of slices."""

import types

import pytest

from jaxreid import chips
from jaxreid.chips import CHIPS, Chip
from jaxreid.collectives import Collective
from jaxreid.floor import Floor, Program, examine, floor

CHIP = Chip(16e9, 100e12, 1e12, 10e9, 2, 16)


def _program(**changes):
  reduced = Collective('all-reduce', ((250,),), 1000, 4, '')
  alone = Collective('all-reduce', ((250,),), 1000, 1, '')
  program = Program(1, 2, 3, 5e12, 2e10, [reduced, reduced, alone])
  return program._replace(**changes)


def test_floors_by_hand():
  times = floor(_program(), CHIP, (2, 2))
  assert times.compute == pytest.approx(0.05)
  assert times.memory == pytest.approx(0.02)
  # 2 x 1500 bytes over two links.
  assert times.interconnect == pytest.approx(3000 / 20e9)
  assert times.latency == pytest.approx(2 * 2 * 1e-6)  # one takes part alone
  assert times.local == times.step == pytest.approx(0.05)


def test_devices_of_one_chip_share_it():
  times = floor(_program(), CHIP, (2, 2), devices_per_chip=2)
  assert times.compute == pytest.approx(0.1)
  assert times.memory == pytest.approx(0.04)
  assert times.interconnect == pytest.approx(6000 / 20e9)


def test_a_chip_alone_exchanges_nothing():
  times = floor(_program(collectives=[]), CHIP, (1, 1))
  assert times.exchange == 0
  assert times.efficiency == (1.0, 1.0)


@pytest.mark.parametrize(
  ('times', 'low', 'high', 'step'),
  [
    (Floor(3.0, 2.0, 0.5, 0.5), 0.75, 1.0, 3.0),
    (Floor(1.0, 2.0, 3.0, 1.0), 1 / 3, 0.5, 4.0),
  ],
)
def test_efficiency(times, low, high, step):
  assert times.efficiency == (pytest.approx(low), pytest.approx(high))
  assert times.step == step


@pytest.mark.parametrize(
  ('chip', 'shape', 'links', 'hops'),
  [
    ('v5e', (1, 1), 0, 0),
    ('v5e', (2, 2), 2, 2),
    ('v5e', (2, 4), 2, 4),  # open ends
    ('v5e', (16, 16), 4, 16),  # wrapped
    ('v5e', (8, 16), 3, 15),
    ('v4', (2, 2, 1), 2, 2),
    ('v5p', (4, 4, 4), 6, 6),
    ('v4', (2, 2, 4), 3, 5),  # not all multiples of 4
  ],
)
def test_links_and_hops(chip, shape, links, hops):
  assert chips.links(CHIPS[chip], shape) == links
  assert chips.hops(CHIPS[chip], shape) == hops


def test_published_figures_fit_each_other():
  for chip in CHIPS.values():
    assert 16e9 <= chip.hbm_bytes <= 100e9
    assert 100 < chip.peak_flops / chip.hbm_bandwidth < 600
    assert 40e9 < chip.link_bandwidth <= 100e9


def test_what_the_compiler_says():
  memory = types.SimpleNamespace(
    argument_size_in_bytes=100,
    output_size_in_bytes=90,
    alias_size_in_bytes=80,
    temp_size_in_bytes=7,
    generated_code_size_in_bytes=3,
  )
  compiled = types.SimpleNamespace(
    memory_analysis=lambda: memory,
    cost_analysis=lambda: {'flops': 11.0, 'bytes accessed': 22.0},
    as_text=lambda: '%a = f32[3] all-reduce(%b), replica_groups={}',
  )
  program = examine(compiled, devices=8)
  assert program[:5] == (100, 7, 120, 11.0, 22.0)
  assert program.sent == 2 * 7 / 8 * 12
