"""StableHLO, as `jax.export` writes and reads it: one file per modality.

Synopsis:

  names = write(programs, folder)                 # {'visible': '...'}
  vectors = run(folder, 'visible', images)

A file is read by JAX without jaxreid or flax, on a CPU, an NVIDIA GPU or a
TPU. Its arrays are inside.
"""

import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from jax import export
from jaxtyping import Float, UInt8

from jaxreid.exports.program import Program, symbolic_images

PLATFORMS = ('cpu', 'cuda', 'tpu')


def write(programs: Sequence[Program], folder: pathlib.Path) -> dict[str, str]:
  """Writes a file per program.

  Returns:
    Their names by modality.
  """
  names = {}
  for program in programs:
    names[program.modality] = f'{program.modality}.stablehlo'
    exported = export.export(jax.jit(program.embed), platforms=PLATFORMS)(
      symbolic_images()
    )
    (folder / names[program.modality]).write_bytes(exported.serialize())
  return names


def run(
  folder: pathlib.Path, modality: str, images: UInt8[np.ndarray, 'b h w 3']
) -> Float[np.ndarray, 'b m d']:
  """What the file of a modality makes of pictures."""
  data = bytearray((folder / f'{modality}.stablehlo').read_bytes())
  return np.asarray(jax.jit(export.deserialize(data).call)(images))
