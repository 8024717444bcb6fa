"""How the pixels of a step reach the devices.

Synopsis:

  feed = open_feed(table.images, sampler, mesh, residency='auto')
  for inputs in feed.inputs(start_step):
    state, metrics = step(state, feed.pixels, inputs)   # calls feed.gather

With 'device' the whole uint8 table lies on every device and a step receives
row numbers; with 'host' each process gathers its slice of the batch from the
memory map, ahead of time. Both give identical batches.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grain.python as grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from jaxreid import sharding
from jaxreid.data.sampler import IdentitySampler

MODALITIES = ('visible', 'infrared')
RESIDENCIES = ('auto', 'device', 'host')
# 'auto' puts the table on the devices if it takes at most this share of one.
DEVICE_SHARE = 0.3


# (the table on the devices or None, inputs of a step) -> the raw batch
Gather = Callable[[Array | None, dict[str, Array]], dict[str, Array]]


class Feed(NamedTuple):
  """A source of raw batches.

  Attributes:
    pixels: the table on the devices, or None if the pixels come with `inputs`.
    inputs: (first step, steps at a time) -> endless iterator of what each step
      receives; if their number is given, of so many at a time, along an axis
      in front.
    gather: (pixels, inputs) -> the raw batch; called inside the jitted step.
  """

  pixels: Array | None
  inputs: Callable[..., Iterator[dict[str, Array]]]
  gather: Gather


def open_feed(
  images: np.ndarray,
  sampler: IdentitySampler,
  mesh: Mesh,
  residency: str = 'auto',
) -> Feed:
  """A feed over the table `images`, uint8 [N, H, W, 3].

  Args:
    images: memory-mapped or in memory.
    sampler: gives the rows of a step.
    mesh: the devices; their number must divide the batch.
    residency: 'device', 'host' or 'auto' (device if the table takes at most
      30 % of one accelerator's memory; always host on CPU).

  Raises:
    ValueError: on another residency, or a batch the devices cannot share.
  """
  sharding.check_divisible(sampler.batch_size, mesh)
  if residency == 'auto':
    residency = 'device' if _fits(images.nbytes) else 'host'
  if residency == 'device':
    return _device_feed(images, sampler, mesh)
  if residency == 'host':
    return _host_feed(images, sampler, mesh)
  raise ValueError(
    f'dataset.residency must be one of {RESIDENCIES}, not {residency!r}'
  )


def _device_feed(
  images: np.ndarray, sampler: IdentitySampler, mesh: Mesh
) -> Feed:
  place = sharding.replicated(mesh)
  pixels = jax.make_array_from_process_local_data(place, np.asarray(images))

  def gather(pixels, inputs):
    batch = {name: pixels[inputs[name]] for name in MODALITIES}
    return {**batch, 'label': inputs['label']}

  return Feed(pixels, _iterate(sampler, mesh, lambda rows: rows), gather)


def _host_feed(
  images: np.ndarray, sampler: IdentitySampler, mesh: Mesh
) -> Feed:
  def fetch(rows):
    batch = {name: images[rows[name]] for name in MODALITIES}
    return {**batch, 'label': rows['label']}

  return Feed(
    None, _iterate(sampler, mesh, fetch), lambda pixels, inputs: inputs
  )


def _iterate(
  sampler: IdentitySampler,
  mesh: Mesh,
  fetch: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
) -> Callable[..., Iterator[dict[str, Array]]]:
  """Steps from a given one on, fetched ahead by two threads."""
  place = sharding.batch_sharding(mesh)
  mine = sharding.local_rows(place, sampler.batch_size)

  def local(step: int) -> dict[str, np.ndarray]:
    return fetch({name: rows[mine] for name, rows in sampler[step].items()})

  def stacked(first: int, length: int) -> dict[str, np.ndarray]:
    steps = [local(step) for step in range(first, first + length)]
    return {name: np.stack([s[name] for s in steps]) for name in steps[0]}

  def inputs(
    start_step: int, length: int | None = None
  ) -> Iterator[dict[str, Array]]:
    last = np.iinfo(np.int32).max
    starts = grain.MapDataset.range(start_step, last, length or 1)
    fetch_at, put = local, functools.partial(_put_rows, mesh, mine)
    if length is not None:
      fetch_at = functools.partial(stacked, length=length)
      put = functools.partial(_put_stack, mesh, mine)
    prefetched = starts.map(fetch_at).to_iter_dataset(
      grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    )
    for arrays in prefetched:
      # JAX takes arrays from callbacks for transfers that nobody asked for.
      with jax.transfer_guard_host_to_device('allow'):
        given = {n: put(x, sampler.batch_size) for n, x in arrays.items()}
      yield given

  return inputs


def _put_rows(
  mesh: Mesh, mine: np.ndarray, values: np.ndarray, count: int
) -> Array:
  place = sharding.batch_sharding(mesh)
  return sharding.from_local(place, mine, values, count)


def _put_stack(
  mesh: Mesh, mine: np.ndarray, values: np.ndarray, count: int
) -> Array:
  """The rows of several steps, [steps, rows, ...]; the steps stay whole."""

  def part(index: Any) -> np.ndarray:
    wanted = np.arange(count)[index[1]]
    return values[:, np.searchsorted(mine, wanted)]

  rows = sharding.batch_sharding(mesh).spec
  place = NamedSharding(mesh, PartitionSpec(None, *rows))
  shape = (len(values), count, *values.shape[2:])
  return jax.make_array_from_callback(shape, place, part)


def _fits(table_bytes: int) -> bool:
  device: Any = jax.local_devices()[0]
  if device.platform == 'cpu':
    return False
  limit = (device.memory_stats() or {}).get('bytes_limit', 0)
  return table_bytes <= DEVICE_SHARE * limit
