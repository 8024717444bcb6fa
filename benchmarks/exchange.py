"""What MAG costs: its share of a training step.

  python -m benchmarks.exchange

times the step of configs/dual_swin.py, with and without exchange in turn, and
`exchange` alone, on random images, and prints a Markdown row. With an argument
of the config (`--arg=dataset=npu_reid`: Swin-T at 224x224) in its setting.
"""

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from configs import dual_swin
from jaxreid import experiment, train_state
from jaxreid.augment.exchange import exchange
from jaxreid.train_step import make_train_step

CLASSES = 100


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--arg', default='', help='of configs/dual_swin.py')
  parser.add_argument('--repeats', type=int, default=10)
  options = parser.parse_args()
  config = dual_swin.get_config(options.arg)
  batch = random_batch(config)
  key = jax.random.key(1)
  swap = jax.jit(exchange)
  runs = {
    'with': step_of(config, batch),
    'without': step_of(without_exchange(config), batch),
    'alone': lambda: swap(key, batch['visible'], batch['infrared']),
  }
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  for _ in range(options.repeats):
    for name, run in runs.items():
      seconds[name].append(timed(run))
  report(config, seconds)


def random_batch(config) -> dict:
  count = config.batch.identities * config.batch.images_per_identity
  rng = np.random.default_rng(0)
  size = (2, count, *config.dataset.image_size, 3)
  visible, infrared = jnp.asarray(rng.integers(0, 256, size), jnp.uint8)
  labels = np.arange(config.batch.identities)
  return {
    'visible': visible,
    'infrared': infrared,
    'label': jnp.repeat(labels, config.batch.images_per_identity),
  }


def without_exchange(config):
  other = config.copy_and_resolve_references()
  other.method.exchange_probability = 0.0
  return other


def step_of(config, batch: dict) -> Callable:
  """A compiled step from the first state, over and over."""
  method = experiment.make_method(config, CLASSES)
  optimizers = experiment.make_optimizers(config, method, 100)
  key = jax.random.key(0)
  create = functools.partial(train_state.create, method, optimizers)
  # It runs once.
  options = {'xla_backend_optimization_level': 0}
  state = jax.jit(create, compiler_options=options)(key, batch)
  step = jax.jit(make_train_step(method, optimizers))
  jax.block_until_ready(step(state, batch, key))
  return lambda: step(state, batch, key)


def timed(run: Callable) -> float:
  jax.block_until_ready(run())
  start = time.perf_counter()
  jax.block_until_ready(run())
  return time.perf_counter() - start


def report(config, seconds: dict[str, list[float]]):
  least = {name: 1e3 * min(values) for name, values in seconds.items()}
  middle = {
    name: 1e3 * statistics.median(values) for name, values in seconds.items()
  }
  height, width = config.dataset.image_size
  print(
    f'jax {jax.__version__} on {jax.devices()[0].device_kind}, '
    f'{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}; '
    f'milliseconds, least / median of {len(seconds["with"])}.\n'
  )
  print('| network, images | step with MAG | without | alone | alone / step |')
  print('| --- | ---: | ---: | ---: | ---: |')
  cells = [f'{least[n]:.2f} / {middle[n]:.2f}' for n in seconds]
  share = 100 * least['alone'] / least['with']
  print(
    f'| {config.backbone.name}, {height}x{width} | '
    + ' | '.join(cells)
    + f' | {share:.2f} % |'
  )


if __name__ == '__main__':
  main()
