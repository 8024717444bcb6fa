"""Says what a file of weights holds, or converts it.

python -m jaxreid.models.pretrained inspect FILE
python -m jaxreid.models.pretrained convert FILE OUT.safetensors
"""

import argparse
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from jaxreid.models.pretrained import files, match, names
from jaxreid.models.pretrained.files import Weights

_SHOWN = 10


class _Parser(argparse.ArgumentParser):
  def error(self, message: str) -> NoReturn:
    _fail(f'{message}; see --help')


def main(argv: Sequence[str] | None = None):
  """Runs one of the commands; a mistake is a sentence and status 1."""
  parser = _Parser(
    prog='python -m jaxreid.models.pretrained', description=__doc__
  )
  commands = parser.add_subparsers(
    dest='command', required=True, metavar='COMMAND'
  )
  inspecting = commands.add_parser('inspect', help='say what a file holds')
  converting = commands.add_parser(
    'convert', help='write the tensors of any readable file as .safetensors'
  )
  for command in (inspecting, converting):
    command.add_argument('file', type=pathlib.Path, metavar='FILE')
  converting.add_argument('out', type=pathlib.Path, metavar='OUT.safetensors')
  options = parser.parse_args(argv)
  try:
    if options.command == 'inspect':
      print('\n'.join(inspect(options.file)))
    else:
      print('\n'.join(convert_file(options.file, options.out)))
  except (ValueError, OSError, ImportError) as error:
    _fail(error)


def inspect(path: pathlib.Path) -> list[str]:
  """Lines on the format, the tensors, and what they fit.

  Raises:
    ValueError, OSError, ImportError: as `read` does.
  """
  weights = files.read(path)
  lines = [*_contents(path, weights), f'SHA-256: {files.checksum(path)}']
  lines += _check_name(path)
  found = match.best_match(weights.tensors)
  if found is None:
    first = ', '.join(list(weights.tensors)[:3])
    return [*lines, f'matches nothing known; the first names are {first}']
  if not found.problems:
    return [*lines, f'matches: {found.description}', found.usage]
  lines.append(
    f'nearest: {found.description}, but for {len(found.problems)} problems:'
  )
  lines += [f'  {problem}' for problem in found.problems[:_SHOWN]]
  if len(found.problems) > _SHOWN:
    lines.append(f'  ... and {len(found.problems) - _SHOWN} more')
  return lines


def convert_file(path: pathlib.Path, out: pathlib.Path) -> list[str]:
  """Writes the tensors as .safetensors, under the names that they have.

  Returns:
    Lines on what was written.

  Raises:
    ValueError: if `out` is there or is not called .safetensors, and as `read`
      does, like OSError and ImportError.
  """
  if out.suffix != '.safetensors':
    raise ValueError(f'{out} must end in .safetensors')
  if out.exists():
    raise ValueError(f'{out} is there already; delete it or name another')
  weights = files.read(path)
  files.write_safetensors(weights.tensors, out)
  return [*_contents(path, weights), f'written to {out}']


def _contents(path: pathlib.Path, weights: Weights) -> list[str]:
  counts = {True: 0, False: 0}
  for name, value in weights.tensors.items():
    counts[names.is_parameter(name)] += np.size(value)
  types = ', '.join(f'{n} {kind}' for kind, n in weights.types.items())
  return [
    f'{path}: {weights.format}',
    f'{len(weights.tensors)} tensors ({types}): {counts[True]:,} parameters '
    f'and {counts[False]:,} statistics',
    *weights.notes,
  ]


def _check_name(path: pathlib.Path) -> list[str]:
  """Compares the digits that torchvision's file names end in."""
  digits = re.search(r'-([0-9a-f]{8})\.pth$', path.name)
  if not digits:
    return []
  if files.checksum(path).startswith(digits.group(1)):
    return [f'the name promises {digits.group(1)}..., which it is']
  return [
    f'the name promises {digits.group(1)}..., which it is NOT: the file is '
    'damaged or another one; download it again'
  ]


def _fail(error: object) -> NoReturn:
  print(f'error: {error}', file=sys.stderr)
  sys.exit(1)


if __name__ == '__main__':
  main()
