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

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


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
