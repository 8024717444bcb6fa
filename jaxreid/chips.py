"""Published figures of TPU chips.

Synopsis:

  chip = CHIPS['v5e']
  chip.hbm_bytes, chip.peak_flops

Memory, peak and memory bandwidth are from the pages of the chips in Google's
documentation, https://docs.cloud.google.com/tpu/docs/v5e and its neighbours
v3, v4, v5p, v6e (read in November 2026). `link_bandwidth`, of one link in one
direction, is derived from them:

  v3   all-reduce bandwidth of a pod, 340 TB/s, over 1024 chips of 4 links
  v4   the same, 1.1 PB/s over 4096 chips of 6 links
  v5e  inter-chip interconnect 1600 Gbit/s (400 GB/s in both directions), 4
  v5p  inter-chip interconnect 4800 Gbit/s, 6 links
  v6e  800 GB/s in both directions, 4 links

They agree within 15 % with the links of "How to Scale Your Model"
(https://jax-ml.github.io/scaling-book/tpus), but for its v3.
"""

from typing import NamedTuple

# Of a message to a neighbouring chip; "How to Scale Your Model", section
# "How to think about TPUs", counts with it.
SECONDS_PER_HOP = 1e-6


class Chip(NamedTuple):
  """One chip.

  Attributes:
    hbm_bytes: memory.
    peak_flops: bfloat16 matrix products per second.
    hbm_bandwidth: bytes per second.
    link_bandwidth: bytes per second that a link sends in one direction.
    axes: of a slice.
    wraps_at: of 2 axes, the longest that one can be, and alone has its ends
      connected, too; of 3, all ends are if every length is a multiple of it.
  """

  hbm_bytes: float
  peak_flops: float
  hbm_bandwidth: float
  link_bandwidth: float
  axes: int
  wraps_at: int


CHIPS = {
  'v3': Chip(32 * 2**30, 123e12, 900e9, 340e12 / 1024 / 4, 2, 32),
  'v4': Chip(32 * 2**30, 275e12, 1200e9, 1.1e15 / 4096 / 6, 3, 4),
  'v5e': Chip(16e9, 197e12, 819e9, 50e9, 2, 16),
  'v5p': Chip(95e9, 459e12, 2765e9, 100e9, 3, 4),
  'v6e': Chip(32e9, 918e12, 1638e9, 100e9, 2, 16),
}


def links(chip: Chip, topology: tuple[int, ...]) -> int:
  """Links of a chip at an end that lead to another of the slice.

  All others wait for it.
  """
  return sum(
    2 if wraps and length > 2 else min(length - 1, 1)
    for length, wraps in zip(topology, _wraps(chip, topology), strict=True)
  )


def hops(chip: Chip, topology: tuple[int, ...]) -> int:
  """Links between the two chips of a slice that are farthest apart."""
  return sum(
    length // 2 if wraps else length - 1
    for length, wraps in zip(topology, _wraps(chip, topology), strict=True)
  )


def _wraps(chip: Chip, topology: tuple[int, ...]) -> list[bool]:
  """Whether the ends of each axis are connected."""
  if chip.axes == 2:
    return [length == chip.wraps_at for length in topology]
  whole = all(length % chip.wraps_at == 0 for length in topology)
  return [whole] * len(topology)
