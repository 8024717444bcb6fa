"""TPU slices as the TPU compiler knows them, on a machine without a TPU.

Synopsis:

  where = open_slice('v5e:16x16')
  mesh = make_mesh(where.devices)    # jit(...).lower(...).compile() for it
"""

import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

from jaxreid.chips import CHIPS, Chip


class Slice(NamedTuple):
  """A TPU slice that need not be there.

  Attributes:
    name: such as 'v5e:16x16'.
    chip: its published figures.
    shape: chips along each axis.
    devices: what JAX compiles for.
  """

  name: str
  chip: Chip
  shape: tuple[int, ...]
  devices: list[Any]

  @property
  def chips(self) -> int:
    """How many."""
    return math.prod(self.shape)

  @property
  def devices_per_chip(self) -> int:
    """2 on v3, whose chips are two devices; else 1."""
    return len(self.devices) // self.chips

  @property
  def memory(self) -> float:
    """Bytes of a device."""
    return self.chip.hbm_bytes / self.devices_per_chip


def open_slice(topology: str) -> Slice:
  """The devices of a topology, from the TPU compiler.

  Raises:
    ValueError: on a topology that is not known, or without the compiler.
  """
  chip, shape = parse_topology(topology)
  if importlib.util.find_spec('libtpu') is None:
    raise ValueError(
      'the TPU compiler is not installed; it needs no TPU: '
      "pip install 'jaxreid[tpu-dry-run]' (700 MB, Linux on x86)"
    )
  # There is no TPU to look for, or to be locked against other processes; what
  # it would be is said, too, or libtpu complains of not knowing.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-4')
  import jax
  from jax.experimental import topologies

  options: dict[str, Any] = {}
  if chip == 'v4':  # both cores of a chip as one device, as JAX has it there
    options['chip_config_name'] = 'megacore'
  if math.prod(shape) == 1:
    options['chips_per_host_bounds'] = [1, 1, 1]
  try:
    found = topologies.get_topology_desc(
      platform='tpu', topology_name=topology, **options
    )
  except jax.errors.JaxRuntimeError as error:
    raise ValueError(
      f'the TPU compiler knows no topology {topology!r}: '
      f'{str(error).splitlines()[0]}'
    ) from error
  return Slice(topology, CHIPS[chip], shape, list(found.devices))


def parse_topology(topology: str) -> tuple[str, tuple[int, ...]]:
  """'v5e:16x16' -> ('v5e', (16, 16)).

  Raises:
    ValueError: on another form or chip.
  """
  match = re.fullmatch(r'(\w+):(\d+(?:x\d+)*)', topology)
  if not match or match[1] not in CHIPS:
    raise ValueError(
      f'--topology={topology} is not a chip ({", ".join(CHIPS)}), a colon and '
      'the chips along each axis, such as v5e:16x16 or v4:2x2x1'
    )
  shape = tuple(int(n) for n in match[2].split('x'))
  if not math.prod(shape):
    raise ValueError(f'--topology={topology} has no chips')
  chip = CHIPS[match[1]]
  if len(shape) != chip.axes:
    raise ValueError(
      f'--topology={topology}: a slice of {match[1]} has {chip.axes} axes'
    )
  if chip.axes == 2 and max(shape) > chip.wraps_at:
    raise ValueError(
      f'--topology={topology}: an axis of {match[1]} has at most '
      f'{chip.wraps_at} chips'
    )
  return match[1], shape
