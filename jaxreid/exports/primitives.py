"""A function rewritten in primitives that every ONNX converter gets right.

Synopsis:

  plain = rewrite(function, shapes)       # computes the same

jax2onnx (0.17) replaces functions of flax and `jax.numpy` by operators of its
own while it traces; some differ from what they replace. It gets no chance to:
the function is traced beforehand, calls are put in line, and two primitives
that it converts wrongly for symbolic batches or more than two dimensions are
expressed by others.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jaxtyping import Array

CALLS = ('closed_call', 'custom_jvp_call', 'custom_vjp_call', 'jit', 'pjit')


def rewrite(
  function: Callable[[Array], Array], shape: jax.ShapeDtypeStruct
) -> Callable[..., Any]:
  """The same function of one array, as a list of simple primitives.

  Args:
    function: can be jitted.
    shape: of its argument; may have symbolic dimensions, and the result is to
      be traced with the very same ones.
  """
  traced = jax.make_jaxpr(function)(shape)
  plain = jax.make_jaxpr(lambda x: _evaluate(traced.jaxpr, traced.consts, [x]))(
    shape
  )
  return core.jaxpr_as_fun(plain)


def _evaluate(
  jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any]
) -> list[Any]:
  values = dict(zip(jaxpr.constvars, constants, strict=True))
  values.update(zip(jaxpr.invars, arguments, strict=True))

  def read(variable: Any) -> Any:
    literal = isinstance(variable, core.Literal)
    return variable.val if literal else values[variable]

  for equation in jaxpr.eqns:
    inputs = [read(variable) for variable in equation.invars]
    values.update(zip(equation.outvars, _apply(equation, inputs), strict=True))
  return [read(variable) for variable in jaxpr.outvars]


def _apply(equation: Any, inputs: Sequence[Any]) -> Sequence[Any]:
  """The results of one equation, by other primitives where need be."""
  name, options = equation.primitive.name, equation.params
  if name in CALLS:
    inner = options['jaxpr' if 'jaxpr' in options else 'call_jaxpr']
    return _evaluate(inner.jaxpr, inner.consts, inputs)
  if name == 'pad':
    return [_pad(inputs[0], inputs[1], options['padding_config'])]
  if name == 'reduce_window_max':
    return [_max_pool(inputs[0], options)]
  results = equation.primitive.bind(*inputs, **options)
  return results if equation.primitive.multiple_results else [results]


def _pad(x: Array, value: Any, config: Sequence[Sequence[Any]]) -> Array:
  """Padding by concatenation."""
  for axis, (before, after, between) in enumerate(config):
    if min(before, after, between) < 0 or between:
      raise NotImplementedError(f'padding by {config} is not expected here')
    parts = []
    for size in (before, None, after):
      if size is None:
        parts.append(x)
      elif size:
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        parts.append(lax.broadcast_in_dim(value, shape, ()))
    x = lax.concatenate(parts, axis) if len(parts) > 1 else x
  return x


def _max_pool(x: Array, options: dict[str, Any]) -> Array:
  """The maximum of shifted copies."""
  window, strides = options['window_dimensions'], options['window_strides']
  dilated = (*options['base_dilation'], *options['window_dilation'])
  if set(dilated) != {1}:
    raise NotImplementedError('dilated pooling is not expected here')
  lowest = jnp.asarray(-jnp.inf, x.dtype)
  x = _pad(x, lowest, [(*sides, 0) for sides in options['padding']])

  def shifted(offsets: Sequence[int]) -> Array:
    part = x
    for axis, offset in enumerate(offsets):
      if window[axis] > 1 or strides[axis] > 1:
        end = x.shape[axis] - window[axis] + 1 + offset
        part = lax.slice_in_dim(part, offset, end, strides[axis], axis)
    return part

  copies = map(shifted, itertools.product(*map(range, window)))
  result = next(copies)
  for copy in copies:
    result = jnp.maximum(result, copy)
  return result
