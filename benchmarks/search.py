"""The speed of the exact search, as a share of the memory's bandwidth.

  python -m benchmarks.search --images=250000      # 2 GB of vectors
  python -m benchmarks.search --images=1000000     # 8 GB

searches a gallery of random vectors of width 2048 for the ten nearest of 1
and of 64 queries and prints seconds (the least of some repeats; the first
call compiles and is not counted), gallery bytes per second, and how many per
cent that is of the bandwidth with which the same vectors can be read: their
largest value, in turn with the searches, by NumPy with a thread per core (the
fastest reader of some that were tried) or, on an accelerator, compiled. The
vectors lie in the memory of the devices.

One query has to read all vectors once and does next to nothing with them, so
100 % is its bound; 64 queries are bound by arithmetic. Fails if the result is
not that of a plain search through the same vectors. `--cpu_time` counts the
seconds of all cores that this process has had, for a CPU that is shared with
other work.
"""

import argparse
import concurrent.futures
import os
import platform
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.train_step import choose_clock
from jaxreid import sharding
from jaxreid.evaluation.nearest import Block, Blocks, nearest

WIDTH = 2048
ROWS = 16384  # of a block


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--images', type=int, default=100_000)
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--queries', type=int, nargs='+', default=[1, 64])
  parser.add_argument('--cpu_time', action='store_true')
  options = parser.parse_args()
  blocks = make_blocks(options.images)
  size = 4 * WIDTH * options.images
  print(
    f'{platform.machine()}, {os.cpu_count()} cores, load '
    f'{os.getloadavg()[0]:.1f}, {len(jax.devices())} x '
    f'{jax.devices()[0].device_kind}, jax {jax.__version__}'
    + (', seconds of CPU' if options.cpu_time else '')
  )
  print(f'{options.images:,} x {WIDTH} float32, {size / 1e9:.2f} GB')
  print('| | seconds | GB/s | of the bandwidth |')
  print('| --- | ---: | ---: | ---: |')
  acts: dict[str, Callable] = {'reading them': make_reader(blocks)}
  for count in options.queries:
    query = make_vectors(count, seed=-1)
    check(query, blocks)
    name = f'search of {count}'
    acts[name] = lambda query=query: nearest(query, blocks)
  found = least(acts, options)
  read = found['reading them']
  for name, seconds in found.items():
    print(
      f'| {name} | {seconds:.3f} | {size / seconds / 1e9:.2f} | '
      f'{100 * read / seconds:.0f} % |'
    )


def make_reader(blocks: list[Block]) -> Callable:
  """A function that reads all vectors and does next to nothing with them."""
  if jax.devices()[0].platform != 'cpu':
    largest = jax.jit(jnp.max)
    return lambda: [largest(b.features) for b in blocks]
  pool = concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0)))
  shards = [s.data for b in blocks for s in b.features.addressable_shards]
  return lambda: [*pool.map(np.max, map(np.asarray, shards))]


def make_blocks(images: int) -> list[Block]:
  """A gallery on the devices, which exists nowhere else."""
  mesh = sharding.make_mesh()
  blocks: list[Block] = []
  for start in range(0, images, ROWS):
    vectors = make_vectors(min(ROWS, images - start), seed=start)
    blocks += Blocks(vectors, mesh, ROWS, start=start)
  return blocks


def make_vectors(count: int, seed: int) -> np.ndarray:
  """[N, 1, 2048] vectors of length 1."""
  rng = np.random.default_rng(seed + 1)
  vectors = rng.standard_normal((count, 1, WIDTH), dtype=np.float32)
  vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
  return vectors


def least(
  acts: dict[str, Callable], options: argparse.Namespace
) -> dict[str, float]:
  """Seconds of each, the least of some turns."""
  clock = choose_clock(options.cpu_time)
  seconds: dict[str, list[float]] = {name: [] for name in acts}
  for turn in range(options.repeats + 1):
    for name, act in acts.items():
      start = clock()
      jax.block_until_ready(act())
      if turn:  # the first compiles
        seconds[name].append(clock() - start)
  return {name: min(values) for name, values in seconds.items()}


def check(query: np.ndarray, blocks: list[Block]):
  """The first query's list, against NumPy."""
  distance, row = nearest(query[:1], blocks)
  products = np.concatenate(
    [
      np.where(b.valid, np.asarray(b.features)[:, 0] @ query[0, 0], -np.inf)
      for b in blocks
    ]
  )
  nearer = np.sort(np.sqrt(2 - 2 * products))[: row.shape[1]]
  np.testing.assert_allclose(distance[0], nearer, atol=1e-3)
  found = np.sqrt(2 - 2 * products[row[0]])
  np.testing.assert_allclose(distance[0], found, atol=1e-3)


if __name__ == '__main__':
  main()
