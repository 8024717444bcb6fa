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
    wraps_at: length of an axis from which its ends are connected, too.
  """

  hbm_bytes: float
  peak_flops: float
  hbm_bandwidth: float
  link_bandwidth: float
  wraps_at: int


CHIPS = {
  'v3': Chip(32 * 2**30, 123e12, 900e9, 340e12 / 1024 / 4, 32),
  'v4': Chip(32 * 2**30, 275e12, 1200e9, 1.1e15 / 4096 / 6, 4),
  'v5e': Chip(16e9, 197e12, 819e9, 50e9, 16),
  'v5p': Chip(95e9, 459e12, 2765e9, 100e9, 4),
  'v6e': Chip(32e9, 918e12, 1638e9, 100e9, 16),
}


def links(chip: Chip, topology: tuple[int, ...]) -> int:
  """Links of the best connected chip that lead to another of the slice."""
  return sum(_of_axis(chip, length) for length in topology)


def hops(chip: Chip, topology: tuple[int, ...]) -> int:
  """Links between the two chips of a slice that are farthest apart."""
  return sum(
    length // 2 if length >= chip.wraps_at else length - 1
    for length in topology
  )


def _of_axis(chip: Chip, length: int) -> int:
  if length >= chip.wraps_at and length > 2:
    return 2
  # Without a wrap the end chips have one link; all wait for them.
  return min(length - 1, 1)
