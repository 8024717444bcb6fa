"""Which of a method's arrays a function of it really needs.

Synopsis:

  used = needed(embed, variables, images)     # the same tree, of booleans
  kept = names(used)                          # {('params', 'backbone', ...)}

Found by the compiler's own elimination of dead code, not listed by hand: so
whatever a method adds for training alone (players, private streams, a
classifier) is told apart without the method saying so.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jaxreid.method import Method, Variables

Name = tuple[str, ...]


def needed(function: Callable, variables: Any, *inputs: Any) -> Any:
  """Traces `function(variables, *inputs)`; nothing is computed.

  Args:
    function: can be jitted.
    variables: a tree of arrays or of their shapes (`jax.ShapeDtypeStruct`).
    *inputs: the other arguments, arrays or shapes.

  Returns:
    A tree like `variables`, True where the result depends on that array.
  """
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (variables, *inputs)
  )
  kept = set(export.export(jax.jit(function))(*shapes).module_kept_var_idx)
  leaves, structure = jax.tree.flatten(variables)
  return jax.tree.unflatten(structure, [i in kept for i in range(len(leaves))])


def needed_to_embed(
  method: Method,
  variables: Variables,
  image_size: tuple[int, int],
  modalities: tuple[str, ...] = ('visible', 'infrared', 'gray'),
) -> Variables:
  """Which arrays embed an image of any of the modalities.

  Args:
    method: the method.
    variables: its arrays or their shapes.
    image_size: (height, width).
    modalities: as `Method.embed` names them.

  Returns:
    A tree like `variables`, of booleans.
  """
  images = jax.ShapeDtypeStruct((1, *image_size, 3), np.uint8)

  def embed_all(variables: Variables, images: jax.Array) -> list[jax.Array]:
    return [method.embed(variables, images, m) for m in modalities]

  return needed(embed_all, variables, images)


def names(used: Any) -> set[Name]:
  """The paths of the leaves that are True in a tree of dictionaries."""
  return {
    tuple(str(key.key) for key in path)
    for path, is_used in jax.tree_util.tree_leaves_with_path(used)
    if is_used
  }


def shapes(method: Method, image_size: tuple[int, int]) -> Variables:
  """The shapes of a method's arrays; no data and no memory is needed."""
  images = jax.ShapeDtypeStruct((2, *image_size, 3), np.uint8)
  batch = {
    'visible': images,
    'infrared': images,
    'label': jax.ShapeDtypeStruct((2,), np.int32),
  }
  return jax.eval_shape(method.init, jax.random.key(0), batch)


def complete(wanted: Any, there: Any) -> Any:
  """A whole tree from some of its arrays; what is missing becomes NaN.

  Not zero: where an array is used after all, the result shows it.

  Args:
    wanted: tree of dictionaries of shapes.
    there: the same without some branches.
  """
  if isinstance(wanted, dict):
    return {
      name: complete(w, there.get(name, {})) for name, w in wanted.items()
    }
  if isinstance(there, jax.Array):
    return there
  value = jnp.nan if jnp.issubdtype(wanted.dtype, jnp.floating) else 0
  return jnp.full(wanted.shape, value, wanted.dtype)
