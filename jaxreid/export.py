"""Writes a trained network as a program that runs without jaxreid.

  python -m jaxreid.export WORKDIR [--format=stablehlo] [--out=FOLDER] \\
      [--modality=visible --modality=infrared]

Formats: 'stablehlo' (read by JAX), 'onnx' (needs the extra `onnx`) and
'savedmodel' (needs the extra `savedmodel`). Resizing and normalising are
inside, pictures of any size and number go in. The folder holds a program per
modality and says how to load it; each is compared with the network first.
"""

import argparse
import pathlib
import shutil
import sys
import time
from collections.abc import Sequence
from types import ModuleType

import jax
import numpy as np

from jaxreid.embedder import MODALITIES, Embedder
from jaxreid.exports import about, onnx_file, saved_model, stablehlo
from jaxreid.exports.program import Program, make_program
from jaxreid.workdir import read_config

FORMATS: dict[str, ModuleType] = {
  'stablehlo': stablehlo,
  'onnx': onnx_file,
  'savedmodel': saved_model,
}
# Of a value of a vector of length 1; bfloat16 rounds to 3 digits.
ALLOWED = {'float32': 1e-4, 'bfloat16': 2e-2}


def main(argv: Sequence[str] | None = None):
  """Runs the command; a mistake is one sentence and the status 1."""
  parser = argparse.ArgumentParser(
    'python -m jaxreid.export',
    description='Writes a trained network as a program.',
  )
  parser.add_argument('workdir', type=pathlib.Path, help='of a run')
  parser.add_argument(
    '--format', choices=tuple(FORMATS), default='stablehlo', dest='kind'
  )
  parser.add_argument(
    '--out', type=pathlib.Path, help='default: WORKDIR/export/FORMAT'
  )
  parser.add_argument(
    '--modality',
    action='append',
    choices=MODALITIES,
    help='can be given several times; default: visible and infrared',
  )
  options = parser.parse_args(argv)
  out = options.out or options.workdir / 'export' / options.kind
  try:
    export(options.workdir, options.kind, out, options.modality)
  except (ValueError, OSError, ImportError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)


def export(
  workdir: pathlib.Path,
  kind: str,
  out: pathlib.Path,
  modalities: Sequence[str] | None = None,
):
  """Writes the folder `out`, whole or not at all.

  Args:
    workdir: of a run, or a slim one.
    kind: the format.
    out: is made; must not exist.
    modalities: visible and infrared if not given.

  Raises:
    ValueError: if there is no run, no checkpoint or no such modality, if `out`
      exists, or if the program's vectors are not those of the network.
    ImportError: if the format needs a package that is missing.
  """
  start = time.monotonic()
  out = out.expanduser().absolute()
  if out.exists():
    raise ValueError(f'{out} exists; delete it, or give another --out')
  dtype = read_config(workdir.expanduser().absolute()).backbone.dtype
  _check_format(kind, dtype)
  print(f'reading {workdir}', flush=True)
  embedder = Embedder(workdir, devices=jax.devices()[:1])
  programs = [
    make_program(embedder, modality)
    for modality in dict.fromkeys(modalities or MODALITIES[:2])
  ]
  part = out.with_name(f'.{out.name}.part')
  shutil.rmtree(part, ignore_errors=True)
  part.mkdir(parents=True)
  try:
    print(f'writing {kind}: {", ".join(p.modality for p in programs)}')
    names = FORMATS[kind].write(programs, part)
    differences = {
      program.modality: _compare(part, kind, program, embedder, ALLOWED[dtype])
      for program in programs
    }
    files = {modality: part / name for modality, name in names.items()}
    about.write(
      part, about.describe(embedder, kind, programs, files, differences)
    )
    part.rename(out)
  except BaseException:
    shutil.rmtree(part, ignore_errors=True)
    raise
  for name in sorted(set(names.values())):
    print(f'{about.size_of(out / name) / 1e6:9.2f} MB  {out / name}')
  print(f'done in {time.monotonic() - start:.0f} s; {out / about.README}')


def _check_format(kind: str, dtype: str):
  """What can be said before anything is read."""
  if kind == 'onnx' and dtype != 'float32':
    raise ValueError(
      f'the network computes in {dtype}, in which ONNX Runtime has no '
      'convolutions; give --format=stablehlo or savedmodel'
    )
  if kind != 'stablehlo':
    FORMATS[kind].check_installed()


def _compare(
  folder: pathlib.Path,
  kind: str,
  program: Program,
  embedder: Embedder,
  allowed: float,
) -> float:
  """The largest difference of the written program to the network.

  Raises:
    ValueError: if it is more than is allowed.
  """
  print(f'comparing {program.modality} with the network: ', end='', flush=True)
  shape = (3, *embedder.image_size, 3)
  images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  found = FORMATS[kind].run(folder, program.modality, images)
  expected = embedder(images, program.modality)
  difference = float(np.abs(found - expected).max())
  print(f'{difference:.1e}')
  if not difference <= allowed:
    raise ValueError(
      f'the {program.modality} program gives other vectors than the network '
      f'(by {difference:.1e}, more than {allowed:.0e}), so nothing is written; '
      'try another --format'
    )
  return difference


if __name__ == '__main__':
  main()
