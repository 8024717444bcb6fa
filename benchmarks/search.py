"""The speed of the exact search, as a share of the memory's bandwidth.

  python benchmarks/search.py --images=250000      # 2 GB of vectors
  python benchmarks/search.py --images=1000000     # 8 GB

searches a gallery of random vectors of width 2048 for the ten nearest of 1
and of 64 queries and prints seconds (the least of some repeats; the first
call compiles and is not counted), gallery bytes per second, and how many per
cent that is of the bandwidth with which the same vectors can be read: the sum
of all their values, compiled, on the same devices. On an accelerator the
vectors lie in its memory if they fit, else they come from the host.

One query has to read all vectors once and does next to nothing with them, so
100 % is its bound; 64 queries are bound by arithmetic. Fails if the result is
not that of a plain search through some of the vectors.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxreid import sharding
from jaxreid.evaluation.nearest import Blocks, nearest

WIDTH = 2048
ROWS = 16384  # of a block


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--images', type=int, default=100_000)
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--queries', type=int, nargs='+', default=[1, 64])
  options = parser.parse_args()
  gallery = make_vectors(options.images, seed=0)
  mesh = sharding.make_mesh()
  blocks = list(Blocks(gallery, mesh, ROWS))
  size = gallery.nbytes
  total = jax.jit(lambda x: jnp.sum(x))
  read = least(lambda: [*map(total, (b.features for b in blocks))], options)
  print(
    f'{platform.machine()}, {os.cpu_count()} cores, load '
    f'{os.getloadavg()[0]:.1f}, {len(jax.devices())} x '
    f'{jax.devices()[0].device_kind}, jax {jax.__version__}'
  )
  print(f'{options.images:,} x {WIDTH} float32, {size / 1e9:.2f} GB')
  print(f'reading them: {read:.3f} s, {size / read / 1e9:.2f} GB/s')
  print('| queries | seconds | GB/s | of the bandwidth |')
  print('| ---: | ---: | ---: | ---: |')
  for count in options.queries:
    query = make_vectors(count, seed=1)
    seconds = least(lambda q=query: nearest(q, blocks), options)
    check(query, blocks, gallery)
    print(
      f'| {count} | {seconds:.3f} | {size / seconds / 1e9:.2f} | '
      f'{100 * read / seconds:.0f} % |',
      flush=True,
    )


def make_vectors(count: int, seed: int) -> np.ndarray:
  """[N, 1, 2048] vectors of length 1."""
  rng = np.random.default_rng(seed)
  vectors = np.empty((count, 1, WIDTH), np.float32)
  for start in range(0, count, 4096):
    part = vectors[start : start + 4096]
    rng.standard_normal(out=part, dtype=np.float32)
    part /= np.linalg.norm(part, axis=-1, keepdims=True)
  return vectors


def least(act: Callable, options: argparse.Namespace) -> float:
  jax.block_until_ready(act())
  seconds = []
  for _ in range(options.repeats):
    start = time.perf_counter()
    jax.block_until_ready(act())
    seconds.append(time.perf_counter() - start)
  return min(seconds)


def check(query: np.ndarray, blocks: list, gallery: np.ndarray):
  """The first query's list, against NumPy."""
  distance, row = nearest(query[:1], blocks)
  products = gallery[:, 0] @ query[0, 0]
  nearer = np.sort(np.sqrt(2 - 2 * products))[: row.shape[1]]
  np.testing.assert_allclose(distance[0], nearer, atol=1e-3)
  found = np.sqrt(2 - 2 * products[row[0]])
  np.testing.assert_allclose(distance[0], found, atol=1e-3)


if __name__ == '__main__':
  main()
