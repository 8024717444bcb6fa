"""LUPI's training step beside the same one in PyTorch, in one run.

  python -m benchmarks.against_pytorch --size=small              # on 2 cores
  python -m benchmarks.against_pytorch --size=paper --batch=8,32 # on a GPU

Three contestants take turns on the same random pixels, the same network (LUPI
with AGW's ResNet-50, or the small one of the rendered set), losses and
optimizer; tables give the median of their turns:

  jaxreid  the step of a run, its feed included; in bfloat16 on a GPU
  tuned    the best that we know of PyTorch: pixels and augmentation on the
           device, channels-last, bfloat16 autocast (on a GPU), torch.compile,
           fused optimizer
  plain    as the public code is written: float32, Pillow's augmentation in the
           workers of a DataLoader, the loss read in every step

Needs PyTorch. On a CPU nothing is compiled by PyTorch unless --compile is
given, which needs a C++ compiler. Where the cores are shared with other work,
`--cpu_time` counts the seconds of all cores that this process has had; Pillow
then works in this process, too.
"""

import argparse
import os
import statistics
from collections.abc import Callable
from typing import Any

# Both frameworks share one device.
os.environ.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.45')

import torch

from benchmarks import torch_lupi
from benchmarks.step_parts import Clock
from benchmarks.torch_feed import DeviceBatches, host_batches
from benchmarks.train_step import (
  CLASSES,
  Driver,
  choose_clock,
  describe,
  make_config,
  random_table,
)
from jaxreid import experiment

Runner = Callable[[int], float]


def main():
  options = parse()
  gpu = torch.cuda.is_available()
  torch.backends.cudnn.benchmark = True
  device = torch.device('cuda' if gpu else 'cpu')
  print(
    f'lupi, {options.size}: {describe()}, torch {torch.__version__}'
    + (', seconds of CPU' if options.cpu_time else '')
  )
  print('| batch | images | contestant | step ms | images/s | jaxreid is |')
  print('| ---: | ---: | --- | ---: | ---: | ---: |', flush=True)
  for identities in map(int, options.batch.split(',')):
    race(options, identities, device)


def parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--size', choices=('small', 'paper'), default='small')
  parser.add_argument('--batch', default='8', help='identities, or several')
  parser.add_argument('--steps', type=int, default=4, help='of a turn')
  parser.add_argument('--turns', type=int, default=5)
  parser.add_argument('--workers', type=int, default=4)
  parser.add_argument('--cpu_time', action='store_true')
  parser.add_argument('--compile', action='store_true', help='on CPU, too')
  return parser.parse_args()


def race(options: argparse.Namespace, identities: int, device: torch.device):
  """Prints a row per contestant."""
  gpu = device.type == 'cuda'
  runners: dict[str, Runner] = {}
  dtype = 'bfloat16' if gpu else 'float32'
  config = make_config('lupi', options.size, dtype, identities)
  table = random_table(config)
  clock = choose_clock(options.cpu_time)
  workers = 0 if options.cpu_time else options.workers
  runners[f'jaxreid {dtype}'] = ours(config, table, clock)
  sampler = experiment.make_sampler(config, table)
  best = gpu or options.compile
  runners[f'tuned {dtype}'] = tuned(config, table, sampler, device, best, clock)
  runners['plain float32'] = plain(
    config, table, sampler, device, workers, clock
  )
  for run in runners.values():
    run(1)  # compiles
  turns: dict[str, list[float]] = {name: [] for name in runners}
  for _ in range(options.turns):
    for name, run in runners.items():
      turns[name].append(run(options.steps))
  images = 3 * sampler.batch_size
  report(
    identities, images, {n: statistics.median(t) for n, t in turns.items()}
  )


def ours(config: Any, table: Any, clock: Clock) -> Runner:
  """The step of a run, over its feed."""
  config.schedule.epochs = 1e4  # more steps than are run
  driver = Driver(experiment.build(config, table), clock)
  return driver.seconds_per_step


def tuned(
  config: Any,
  table: Any,
  sampler: Any,
  device: torch.device,
  compiled: bool,
  clock: Clock,
) -> Runner:
  """The best that we know."""
  network = make_network(config).to(device, memory_format=torch.channels_last)
  optimizer = torch_lupi.make_optimizer(network, fused=True)
  padding = config.method.padding
  feed = DeviceBatches(table, sampler, device, padding, compiled)
  loss_of = torch.compile(weighted_loss) if compiled else weighted_loss
  weights = loss_weights(config)

  def run(steps: int) -> float:
    start = clock()
    for _ in range(steps):
      images, labels = feed.next()
      half = device.type == 'cuda'
      with torch.autocast(device.type, torch.bfloat16, enabled=half):
        loss = loss_of(network, images, labels, *weights)
      optimizer.zero_grad(set_to_none=True)
      loss.backward()
      optimizer.step()
    return (wait(device, clock) - start) / steps

  return run


def plain(
  config: Any,
  table: Any,
  sampler: Any,
  device: torch.device,
  workers: int,
  clock: Clock,
) -> Runner:
  """As the public code is written."""
  network = make_network(config, written_out=True).to(device)
  optimizer = torch_lupi.make_optimizer(network, fused=False)
  padding = config.method.padding
  weights = loss_weights(config)

  def run(steps: int) -> float:
    # Workers of its own for each turn: they would take cores from the others.
    feed = host_batches(table, sampler, padding, device, workers)
    for _ in range(2 * workers + 1):
      next(feed)  # what they had prepared ahead
    start = clock()
    for _ in range(steps):
      images, labels = next(feed)
      loss = weighted_loss(network, images, labels, *weights)
      optimizer.zero_grad()
      loss.backward()
      optimizer.step()
      float(loss)
    seconds = (wait(device, clock) - start) / steps
    feed.close()
    return seconds

  return run


def make_network(config: Any, written_out: bool = False) -> torch_lupi.Network:
  network = torch_lupi.Network(CLASSES, config.backbone.name, written_out)
  return network.train()


def loss_weights(config: Any) -> tuple[float, float]:
  return config.method.triplet_weight, config.method.color_free_weight


def weighted_loss(network, images, labels, triplet, color_free):
  return torch_lupi.lupi_loss(network, images, labels, triplet, color_free)


def wait(device: torch.device, clock: Clock) -> float:
  """The time when the device has done its work."""
  if device.type == 'cuda':
    torch.cuda.synchronize()
  return clock()


def report(identities: int, images: int, seconds: dict[str, float]):
  """Rows, with how many times as fast as each ours of the same type is."""
  first = next(iter(seconds))
  for name, value in seconds.items():
    # The best of ours against what they offer, as a user would choose.
    ratio = (
      '' if name.startswith('jaxreid') else f'{value / seconds[first]:.2f}'
    )
    print(
      f'| {identities} | {images} | {name} | {1e3 * value:.4g} | '
      f'{images / value:.4g} | {ratio and ratio + " times as fast"} |',
      flush=True,
    )


if __name__ == '__main__':
  main()
