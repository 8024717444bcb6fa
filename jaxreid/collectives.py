"""The collectives of a compiled program, read from its text.

Synopsis:

  found = read(jax.jit(step).lower(*shapes).compile().as_text())
  sum(c.sent for c in found)     # bytes that each device sends, at least

Understands what XLA prints for CPU, GPU and TPU: asynchronous pairs
(`all-reduce-start`), tuples of arrays in one collective, the three notations
of replica groups, and collectives that the TPU compiler runs in several fused
parts, which share a `chain_id`.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'ragged-all-to-all',
  'all-to-all',
  'collective-permute',
  'collective-broadcast',
)
_LINE = re.compile(
  r'%?(?P<name>[\w.\-]+) = (?P<result>.*?) '
  rf'(?P<kind>{"|".join(KINDS)})(?P<start>-start)?\('
)
_ARRAY = re.compile(r'\b(pred|[a-z]+\d+)[a-z0-9]*\[([\d,]*)\]')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CHAIN = re.compile(r'chain_id="(\d+)"')


class Collective(NamedTuple):
  """One exchange between devices.

  Attributes:
    kind: one of `KINDS`.
    shapes: of the arrays that it results in.
    size: bytes of those.
    group: devices that take part together.
    op_name: where the program asks for it.
  """

  kind: str
  shapes: tuple[tuple[int, ...], ...]
  size: int
  group: int
  op_name: str

  @property
  def sent(self) -> float:
    """Bytes that each device has to send, whatever the algorithm."""
    others = (self.group - 1) / self.group
    match self.kind:
      case 'all-reduce':
        return 2 * others * self.size
      case 'reduce-scatter':  # the result is one device's part
        return float((self.group - 1) * self.size)
      case 'collective-permute' | 'collective-broadcast':
        return float(self.size) if self.group > 1 else 0.0
      case _:
        return others * self.size


def read(program: str, devices: int = 1) -> list[Collective]:
  """Every collective of a program's text, in its order.

  Those in the body of a loop are counted once.

  Args:
    program: `compiled.as_text()`.
    devices: that the program runs on, for groups that are not spelled out.
  """
  return list(_read(program, devices))


def _read(program: str, devices: int) -> Iterator[Collective]:
  seen: set[str] = set()
  for line in program.splitlines():
    match = _LINE.search(line)
    if not match:
      continue
    chain = _CHAIN.search(line)
    if chain:
      if chain[1] in seen:
        continue
      seen.add(chain[1])
    group = _group(line, devices)
    arrays = [
      (dtype, tuple(int(n) for n in sizes.split(',') if n))
      for dtype, sizes in _ARRAY.findall(match['result'])
    ]
    if match['start']:
      arrays = _results(match['kind'], arrays)
    op_name = _OP_NAME.search(line)
    yield Collective(
      match['kind'],
      tuple(shape for _, shape in arrays),
      sum(_width(dtype) * math.prod(shape) for dtype, shape in arrays),
      group,
      op_name[1] if op_name else '',
    )


def _results(kind: str, arrays: list) -> list:
  """An asynchronous start holds the operands beside the results."""
  if kind == 'all-reduce':
    return arrays
  if kind == 'collective-permute':
    return arrays[1:2]
  return arrays[len(arrays) // 2 :]


def _group(line: str, devices: int) -> int:
  """Devices in a replica group."""
  if '{source_target_pairs' in line or ' source_target_pairs=' in line:
    return devices
  if listed := re.search(r'replica_groups=\{\{([\d,]*)\}', line):
    return len(listed[1].split(','))
  if iota := re.search(r'replica_groups=\[(\d+),(\d+)\]', line):
    return int(iota[2])
  if mesh := re.search(r'replica_groups=mesh\[(.*?)\] \{(.*?)\}', line):
    axes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
    return math.prod(int(axes[axis]) for axis in re.findall(r'\w+', mesh[2]))
  return devices


def _width(dtype: str) -> int:
  """Bytes of a number, by its name in XLA."""
  if dtype == 'pred':
    return 1
  match = re.search(r'\d+', dtype)
  return max(1, int(match[0]) // 8) if match else 4
