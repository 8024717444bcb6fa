"""What a network costs to compute.

Synopsis:

  image = jax.ShapeDtypeStruct((1, 256, 128, 3), jnp.float32)
  count = multiply_adds(functools.partial(network.apply, variables), image)
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def multiply_adds(function: Callable[..., Any], *arguments: Any) -> int:
  """Multiplications of a function's convolutions and matrix products.

  What papers call FLOPs. Padding counts as if it were multiplied; all that is
  done element by element (BatchNorm, ReLU, pooling) does not count.

  Args:
    function: of arrays; it is traced, not run.
    *arguments: arrays, or trees of them, or of their shapes.

  Returns:
    The number for one call; a loop's body counts once.
  """
  return sum(map(_cost, _equations(jax.make_jaxpr(function)(*arguments))))


def _equations(jaxpr: Any) -> Iterator[Any]:
  """All equations of a traced program, those of inner programs included."""
  if isinstance(jaxpr, tuple | list):
    for part in jaxpr:
      yield from _equations(part)
  inner = getattr(jaxpr, 'jaxpr', jaxpr)
  for equation in getattr(inner, 'eqns', ()):
    yield equation
    yield from _equations(tuple(equation.params.values()))


def _cost(equation: Any) -> int:
  name = equation.primitive.name
  if name == 'conv_general_dilated':
    kernel = equation.invars[1].aval.shape
    outputs = equation.params['dimension_numbers'].rhs_spec[0]
    per_output = math.prod(kernel) // kernel[outputs]
  elif name == 'dot_general':
    (contracted, _), _ = equation.params['dimension_numbers']
    left = equation.invars[0].aval.shape
    per_output = math.prod(left[axis] for axis in contracted)
  else:
    return 0
  return math.prod(equation.outvars[0].aval.shape) * per_output
