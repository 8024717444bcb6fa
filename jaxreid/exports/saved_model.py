"""A TensorFlow SavedModel: one folder, one signature per modality.

Synopsis:

  names = write(programs, folder)                 # {'visible': 'saved_model'}
  vectors = run(folder, 'visible', images)

Needs TensorFlow. The signatures share their variables, and hold the same
StableHLO as the other format, so TensorFlow compiles it by XLA.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from jaxreid.exports.program import INPUT, OUTPUT, Program
from jaxreid.exports.stablehlo import PLATFORMS

FOLDER = 'saved_model'


def check_installed():
  """Raises ImportError if TensorFlow is missing, with what to install."""
  try:
    import tensorflow  # noqa: F401
  except ImportError as error:
    raise ImportError(
      f'--format=savedmodel needs TensorFlow ({error}): '
      "pip install 'jaxreid[savedmodel]'"
    ) from error


def write(programs: Sequence[Program], folder: pathlib.Path) -> dict[str, str]:
  """Writes `folder/saved_model`.

  Returns:
    Its name, by modality.

  Raises:
    ImportError: without TensorFlow.
  """
  check_installed()
  import tensorflow as tf
  from jax.experimental import jax2tf

  module = tf.Module()
  arrays = tf.nest.map_structure(
    lambda x: tf.Variable(x, trainable=False), programs[0].arrays
  )
  # A list: TensorFlow wraps dictionaries, and JAX then sees no tree in them.
  module.arrays = tf.nest.flatten(arrays)
  shape = tf.TensorSpec((None, None, None, 3), tf.uint8, name=INPUT)

  def signature(program: Program) -> Any:
    convert = jax2tf.convert(
      program.function,
      polymorphic_shapes=(None, '(batch, height, width, 3)'),
      with_gradient=False,
      native_serialization_platforms=PLATFORMS,
    )

    def embed(images: Any) -> Any:
      return {OUTPUT: convert(arrays, images)}

    return tf.function(embed, input_signature=[shape], autograph=False)

  signatures = {p.modality: signature(p) for p in programs}
  module.functions = list(signatures.values())
  tf.saved_model.save(module, str(folder / FOLDER), signatures)
  return {program.modality: FOLDER for program in programs}


def run(
  folder: pathlib.Path, modality: str, images: UInt8[np.ndarray, 'b h w 3']
) -> Float[np.ndarray, 'b m d']:
  """What a signature of the folder makes of pictures."""
  import tensorflow as tf

  signatures = tf.saved_model.load(str(folder / FOLDER)).signatures
  return signatures[modality](**{INPUT: tf.constant(images)})[OUTPUT].numpy()
