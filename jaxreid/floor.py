"""How fast a compiled program can be at best, by a chip's published figures.

Synopsis:

  program = examine(jitted.lower(*shapes).compile(), devices=4)
  times = floor(program, CHIPS['v5e'], (2, 2))
  times.step, times.efficiency

The compiler counts operations and bytes of one device; the floors are these
over the peak figures, which no program reaches. They say what a step is bound
by and what more chips can bring, not how long it will take.
"""

from typing import Any, NamedTuple

from jaxreid import chips, collectives
from jaxreid.chips import Chip
from jaxreid.collectives import Collective


class Program(NamedTuple):
  """What the compiler says of a program, per device.

  Attributes:
    arguments: bytes.
    temporaries: bytes, at their highest.
    peak: bytes in use at the same time: arguments, results that are not
      written over them, temporaries and code.
    flops: floating point operations.
    accessed: bytes read and written, as XLA counts them: each operation's
      operands and results, also those that never leave the chip's caches.
    collectives: exchanges between devices.
  """

  arguments: int
  temporaries: int
  peak: int
  flops: float
  accessed: float
  collectives: list[Collective]

  @property
  def sent(self) -> float:
    """Bytes that a device sends to others, at least."""
    return sum((c.sent for c in self.collectives), 0.0)


class Floor(NamedTuple):
  """Seconds that each resource of the chip needs at least.

  Attributes:
    compute: operations at the bfloat16 peak.
    memory: bytes accessed at the full bandwidth.
    interconnect: bytes sent over all links that the slice has.
    latency: of the collectives one after the other, a microsecond a hop.
  """

  compute: float
  memory: float
  interconnect: float
  latency: float

  @property
  def local(self) -> float:
    """Of the device's own work."""
    return max(self.compute, self.memory)

  @property
  def exchange(self) -> float:
    """Of all collectives."""
    return self.interconnect + self.latency

  @property
  def step(self) -> float:
    """Of the program, if exchanges hide behind the device's own work."""
    return max(self.local, self.exchange)

  @property
  def efficiency(self) -> tuple[float, float]:
    """Own work over total time: exchanges hidden not at all, and wholly.

    What n devices do in a time, over n times what one does with the same
    images per device and no exchange.
    """
    if not self.local:
      return 0.0, 0.0
    return self.local / (self.local + self.exchange), self.local / self.step


def examine(compiled: Any, devices: int) -> Program:
  """Reads a `jax.stages.Compiled`.

  Args:
    compiled: the program.
    devices: that it runs on.
  """
  memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
  needed = (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
    + memory.generated_code_size_in_bytes
  )
  return Program(
    arguments=memory.argument_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    peak=needed,
    flops=cost.get('flops', 0.0),
    accessed=cost.get('bytes accessed', 0.0),
    collectives=collectives.read(compiled.as_text(), devices),
  )


def floor(
  program: Program,
  chip: Chip,
  topology: tuple[int, ...],
  devices_per_chip: int = 1,
) -> Floor:
  """The floors of a program on a slice.

  Args:
    program: as `examine` gives it.
    chip: its published figures.
    topology: chips along each axis of the slice.
    devices_per_chip: devices that share a chip's figures (v3: 2).
  """
  exchanged = [c for c in program.collectives if c.sent]
  links = chips.links(chip, topology)
  distance = chips.hops(chip, topology)
  # Devices of one chip share its links, too.
  sent = program.sent * devices_per_chip
  return Floor(
    compute=program.flops * devices_per_chip / chip.peak_flops,
    memory=program.accessed * devices_per_chip / chip.hbm_bandwidth,
    interconnect=sent / (links * chip.link_bandwidth) if links else 0.0,
    latency=len(exchanged) * distance * chips.SECONDS_PER_HOP,
  )
