"""The function that is exported: pictures of any size in, vectors out.

Synopsis:

  program = make_program(embedder, 'infrared')
  vectors = program.function(program.arrays, images)     # float32 [B, M, D]

Resizing and normalising are inside, so whoever serves it does neither.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float, UInt8

from jaxreid.embedder import Embedder
from jaxreid.exports.resize import resize

# Names that the files give to what goes in and comes out.
INPUT = 'images'
OUTPUT = 'vectors'


class Program(NamedTuple):
  """What one file holds.

  Attributes:
    modality: of the pictures.
    arrays: of the network, on the host; those of all programs of an embedder
      are the same.
    function: (arrays, uint8 [B, H, W, 3]) -> float32 [B, M, D], vectors of
      length 1; B, H and W may be symbolic.
    vectors: (M, D).
  """

  modality: str
  arrays: Any
  function: Callable[[Any, Array], Array]
  vectors: tuple[int, int]

  def embed(self, images: UInt8[Array, 'b h w 3']) -> Float[Array, 'b m d']:
    """The function with its arrays as constants."""
    return self.function(self.arrays, images)


def make_program(embedder: Embedder, modality: str) -> Program:
  """The program of one modality.

  Raises:
    ValueError: on a modality that the embedder cannot embed.
  """
  traced = embedder.function(modality)
  image_size = embedder.image_size

  def function(arrays: Any, images: Array) -> Array:
    # Not those of the closure: a format may hold the arrays as variables.
    arrays = jax.tree.map(jnp.asarray, arrays)
    pixels = resize(images, image_size)
    return traced.func(arrays, pixels).astype(jnp.float32)

  (arrays,) = jax.device_get(traced.args)
  one = jax.ShapeDtypeStruct((1, *image_size, 3), np.uint8)
  m, d = jax.eval_shape(function, arrays, one).shape[1:]
  return Program(modality, arrays, function, (m, d))


def symbolic_images() -> jax.ShapeDtypeStruct:
  """uint8 [batch, height, width, 3] with three symbolic dimensions."""
  sizes = export.symbolic_shape('batch, height, width')
  return jax.ShapeDtypeStruct((*sizes, 3), np.uint8)
