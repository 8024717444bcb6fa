"""How a step of TS-GAN is shared out over its three phases.

  python -m benchmarks.tsgan_phases [--size=96x48] [--steps=10]

times the step with the generators alone, with generators and backbone, and
whole, on random images; the differences are the phases.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from configs import tsgan
from jaxreid import experiment, train_state
from jaxreid.train_step import make_train_step


def main():
  """Prints milliseconds per phase."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--arg', default='', help='what follows the colon')
  parser.add_argument('--size', default='', help='HEIGHTxWIDTH')
  parser.add_argument('--steps', type=int, default=10)
  options = parser.parse_args()
  config = tsgan.get_config(options.arg or None)
  if options.size:
    height, width = options.size.split('x')
    config.dataset.image_size = (int(height), int(width))
  method = experiment.make_method(config, 100)
  players = list(method.losses)
  times = [
    _time(config, method, players[: count + 1], options.steps)
    for count in range(len(players))
  ]
  print(f'{jax.devices()[0].device_kind}, {config.dataset.image_size}')
  print('| phase | ms | share |\n| --- | ---: | ---: |')
  for player, before, until in zip(players, [0.0, *times], times, strict=False):
    print(f'| {player} | {until - before:.1f} | ', end='')
    print(f'{(until - before) / times[-1]:.0%} |')
  print(f'| step | {times[-1]:.1f} | |')


def _time(config, method, players: list[str], steps: int) -> float:
  """Median milliseconds of a step in which these players move."""
  part = method._replace(losses={p: method.losses[p] for p in players})
  optimizers = experiment.make_optimizers(config, method, 100)
  optimizers = {p: optimizers[p] for p in players}
  batch = _batch(config)
  create = jax.jit(
    lambda key: train_state.create(part, optimizers, key, batch),
    compiler_options={'xla_backend_optimization_level': 0}
    if jax.default_backend() == 'cpu'
    else {},
  )
  state = create(jax.random.key(0))
  step = jax.jit(make_train_step(part, optimizers), donate_argnums=0)
  taken = []
  for _ in range(steps + 1):
    start = time.perf_counter()
    state, metrics = step(state, batch, jax.random.key(1))
    jax.block_until_ready((state, metrics))
    taken.append(1000 * (time.perf_counter() - start))
  return statistics.median(taken[1:])  # the first one compiles


def _batch(config) -> dict:
  count = config.batch.identities * config.batch.images_per_identity
  shape = (count, *config.dataset.image_size, 3)
  rng = np.random.default_rng(0)
  labels = np.arange(count) // config.batch.images_per_identity
  return {
    'visible': jnp.asarray(rng.integers(0, 256, shape), jnp.uint8),
    'infrared': jnp.asarray(rng.integers(0, 256, shape), jnp.uint8),
    'label': jnp.asarray(labels, jnp.int32),
  }


if __name__ == '__main__':
  main()
