"""One mesh, two layouts: everything everywhere, or images spread in rows.

Synopsis:

  mesh = make_mesh()
  state = jax.device_put(state, replicated(mesh))
  check_divisible(batch_size, mesh)
  step = jax.jit(step, in_shardings=(replicated(mesh), batch_sharding(mesh)))

A jitted step over these shardings is one program over the global batch: hard
mining and batch normalisation see all of it on any number of devices.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import (
  AxisType,
  Mesh,
  NamedSharding,
  PartitionSpec,
  Sharding,
)
from jaxtyping import Array, Int, Shaped


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """One axis, 'data', over `devices` (default: all devices of all hosts).

  The axis is `AxisType.Auto`: the compiler decides how intermediate values
  are spread, without which all-pairs distances of sharded rows are refused.
  """
  if devices is None:
    devices = jax.devices()
  return jax.make_mesh(
    (len(devices),), ('data',), axis_types=(AxisType.Auto,), devices=devices
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """A full copy on every device: parameters, optimizer state, pixel table."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The first axis spread over the devices: images, labels, rows."""
  return NamedSharding(mesh, PartitionSpec('data'))


def check_divisible(batch_size: int, mesh: Mesh) -> None:
  """Refuses a batch that cannot be spread evenly over the devices.

  Raises:
    ValueError: `batch_size` is not a multiple of the number of devices.
  """
  if batch_size % mesh.size:
    raise ValueError(
      f'A batch of {batch_size} images cannot be spread evenly over '
      f'{mesh.size} devices: choose identities x images per identity as a '
      f'multiple of {mesh.size}, or use fewer devices.'
    )


def local_rows(place: Sharding, count: int) -> Int[np.ndarray, 'rows']:
  """Which of `count` rows this process's devices hold, ascending.

  All of them in a run of one process.
  """
  every = np.arange(count)
  held = place.addressable_devices_indices_map((count,)).values()
  return np.unique(np.concatenate([every[index] for index in held]))


def from_local(
  place: Sharding,
  rows: Int[np.ndarray, 'rows'],
  values: Shaped[np.ndarray, 'rows *rest'],
  count: int,
) -> Array:
  """An array of `count` rows, of which each process gives its own.

  Args:
    place: how the rows are spread.
    rows: `local_rows(place, count)`.
    values: the contents of these rows.
    count: rows of all processes together.
  """

  def part(index: Any) -> np.ndarray:
    wanted = np.arange(count)[index[0]]
    return values[np.searchsorted(rows, wanted)]

  return jax.make_array_from_callback((count, *values.shape[1:]), place, part)


def local_copy(tree: Any) -> Any:
  """Replicated arrays as this process alone can compute with them."""
  if jax.process_count() == 1:
    return tree
  return jax.tree.map(lambda x: x.addressable_data(0), tree)
