"""Distances between embeddings, for losses and for evaluation.

Synopsis:

  distance = pairwise_euclidean(anchors, others)          # [M, N]
  distance = sum_over_modalities(queries, gallery)        # [Nq, Ng]

Both work in at least float32 and at the highest matrix precision: the short
floating-point formats that accelerators use for products by default are
visible in the ranking of close neighbours.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# Smallest squared distance: keeps the slope of the square root finite.
_SMALLEST = 1e-12


def working_dtype(*arrays: Array) -> jnp.dtype:
  """The type to compute in: float32, or wider if an argument is wider."""
  return jnp.result_type(jnp.float32, *(array.dtype for array in arrays))


@jax.jit
def pairwise_euclidean(
  a: Float[Array, 'm d'], b: Float[Array, 'n d']
) -> Float[Array, 'm n']:
  """Euclidean distance of every row of `a` to every row of `b`.

  Computed as `|a|^2 + |b|^2 - 2 a.b`, so a distance far below the norms of
  its vectors carries the rounding error of the squared norms: in float32
  about 5e-4 for vectors of length 1. The gradient is finite everywhere;
  coincident rows have the distance 1e-6 (or that rounding error) in place of
  0.

  Args:
    a: M vectors, any float type.
    b: N vectors of the same length.

  Returns:
    [M, N] distances in float32, or in float64 if an argument is float64.

  Example:
    >>> a, b = jnp.array([[0.0, 0.0], [3.0, 0.0]]), jnp.array([[0.0, 4.0]])
    >>> pairwise_euclidean(a, b)
    Array([[4.],
           [5.]], dtype=float32)

  Raises:
    ValueError: if the arguments are not two matrices of equal width.
  """
  if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
    raise ValueError(
      'Distances need two matrices [M, D] and [N, D] of equal width; got '
      f'{a.shape} and {b.shape}.'
    )
  dtype = working_dtype(a, b)
  a, b = a.astype(dtype), b.astype(dtype)
  products = jnp.matmul(a, b.T, precision=lax.Precision.HIGHEST)
  a_squared = jnp.sum(jnp.square(a), axis=1)[:, None]
  b_squared = jnp.sum(jnp.square(b), axis=1)[None, :]
  squared = a_squared + b_squared - 2 * products
  return jnp.sqrt(jnp.maximum(squared, _SMALLEST))


@functools.partial(jax.jit, static_argnames='kind')
def sum_over_modalities(
  query: Float[Array, 'q mq d'],
  gallery: Float[Array, 'g mg d'],
  kind: str = 'sum',
) -> Float[Array, 'q g']:
  """Distance of images that are embedded once or once per modality.

  With one embedding each this is `pairwise_euclidean`. With one for an
  infrared query and two for a visible image (as itself and as its X version)
  the sum is Eq. 2 of Li et al., "Infrared-Visible Cross-Modal Person
  Re-Identification with an X Modality", AAAI 2020. Concatenating the two
  embeddings is another ranking.

  Args:
    query: [Nq, Mq, D], Mq embeddings of each query.
    gallery: [Ng, Mg, D].
    kind: 'sum' adds the distances of all Mq x Mg pairs; 'plain' takes the
      first embedding of either side alone.

  Returns:
    [Nq, Ng] distances.

  Raises:
    ValueError: on another `kind`, or if the widths D differ.
  """
  if kind == 'plain':
    return pairwise_euclidean(query[:, 0], gallery[:, 0])
  if kind != 'sum':
    raise ValueError(f"A distance is 'sum' or 'plain', not {kind!r}.")
  total = jnp.zeros(
    (query.shape[0], gallery.shape[0]), working_dtype(query, gallery)
  )
  for i in range(query.shape[1]):
    for j in range(gallery.shape[1]):
      total = total + pairwise_euclidean(query[:, i], gallery[:, j])
  return total
