"""ONNX, by jax2onnx: one file per modality, for ONNX Runtime and others.

Synopsis:

  names = write(programs, folder)                 # {'visible': 'visible.onnx'}
  vectors = run(folder, 'visible', images)

Needs jax2onnx and onnxruntime. All three sizes of the input are symbolic, so
one session takes pictures of any size.
"""

import logging
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from jaxreid.exports.primitives import rewrite
from jaxreid.exports.program import INPUT, OUTPUT, Program, symbolic_images


def check_installed():
  """Raises ImportError if a package is missing, with what to install."""
  try:
    import jax2onnx  # noqa: F401
    import onnxruntime  # noqa: F401
  except ImportError as error:
    raise ImportError(
      f'--format=onnx needs jax2onnx and onnxruntime ({error}): '
      "pip install 'jaxreid[onnx]'"
    ) from error


def write(programs: Sequence[Program], folder: pathlib.Path) -> dict[str, str]:
  """Writes a file per program.

  Returns:
    Their names by modality.

  Raises:
    ImportError: without jax2onnx or onnxruntime.
  """
  check_installed()
  import jax2onnx

  # It warns of every shape that it does not write down.
  logging.getLogger('onnx_ir').setLevel(logging.ERROR)
  names = {}
  for program in programs:
    names[program.modality] = f'{program.modality}.onnx'
    images = symbolic_images()
    jax2onnx.to_onnx(
      rewrite(program.embed, images),
      [images],
      model_name=f'jaxreid_{program.modality}',
      input_names=[INPUT],
      output_names=[OUTPUT],
      # The mode that keeps everything in one file.
      export_mode='web',
      return_mode='file',
      output_path=folder / names[program.modality],
    )
  return names


def run(
  folder: pathlib.Path, modality: str, images: UInt8[np.ndarray, 'b h w 3']
) -> Float[np.ndarray, 'b m d']:
  """What the file of a modality makes of pictures, on the CPU."""
  import onnxruntime

  session = onnxruntime.InferenceSession(
    folder / f'{modality}.onnx', providers=['CPUExecutionProvider']
  )
  return session.run([OUTPUT], {INPUT: images})[0]
