"""What a training step costs, and where its time goes.

  python -m benchmarks.train_step --method=lupi --size=paper --dtype=bfloat16 \\
    --batch=8,32

builds the step of a run of `jaxreid.main` on random pixels and prints a table
row per batch (identities in a step): images per second, operations per image,
share of the peak that a matrix product reaches on this device in this run,
milliseconds of the parts, and seconds of compilation. It needs no dataset.

Operations are XLA's count: in the program as compiled, which on a GPU knows
nothing of the convolutions inside cuDNN, and as it was before optimisation,
which the share of the peak is of. The parts are programs of their own, so
that they need not add up to the step, in which they overlap; `backward` is
what the gradient takes beyond the losses alone. They are those of the first
batch.

On a CPU that is shared with other work, `--cpu_time` counts the seconds of all
cores that this process has had instead of those of the clock on the wall.
"""

import argparse
import importlib
import itertools
import statistics
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.step_parts import Clock, time_parts, timed
from jaxreid import experiment
from jaxreid.data.source import INFRARED, VISIBLE, Records, Table
from jaxreid.experiment import Setup

METHODS = ('baseline', 'lupi', 'xiv', 'dual_swin', 'tsgan')
# Arguments of the configs.
SIZES = {'paper': 'dataset=sysu_mm01', 'small': ''}
# SYSU-MM01's training identities; the number of images changes no step.
CLASSES = 395
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
TITLES = (
  'batch, images, images/s, step ms, GFLOP/image, as compiled, of peak, '
  'augment ms, forward ms, backward ms, optimizer ms, feed ms, compile s'
)
# Sides of the matrices whose product is the device's peak.
PEAK_SIDES = {'cpu': (512, 1024), 'gpu': (4096, 8192), 'tpu': (4096, 8192)}


class Row(NamedTuple):
  """Measurements of one batch size, seconds.

  Attributes:
    images: that pass the network in a step.
    step: of a run, pixels fed.
    compiled_flops: of a step, by the compiled program.
    flops: of a step, before optimisation.
    compile: from the function to the program.
    parts: name -> time.
  """

  images: int
  step: float
  compiled_flops: float
  flops: float
  compile: float
  parts: dict[str, float]


def main():
  options = parse()
  jax.config.update('jax_enable_compilation_cache', False)
  device = jax.devices()[0]
  clock = choose_clock(options.cpu_time)
  print(
    f'{options.method}, {options.size}, {options.dtype}: {describe()}'
    + (', seconds of CPU' if options.cpu_time else '')
  )
  peak = matmul_peak(device.platform, DTYPES[options.dtype], clock)
  print(f'peak of a {options.dtype} matrix product: {peak / 1e12:.4g} TFLOP/s')
  print_header()
  for i, identities in enumerate(map(int, options.batch.split(','))):
    config = make_config(
      options.method, options.size, options.dtype, identities, options.remat
    )
    row = measure(config, options.repeats, options.parts and i == 0, clock)
    print_row(identities, row, peak)


def parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--method', choices=METHODS, default='lupi')
  parser.add_argument('--dtype', choices=list(DTYPES), default='float32')
  parser.add_argument('--batch', default='8', help='identities, or several')
  parser.add_argument('--size', choices=list(SIZES), default='small')
  parser.add_argument('--remat', action='store_true')
  parser.add_argument('--repeats', type=int, default=10)
  parser.add_argument('--cpu_time', action='store_true')
  parser.add_argument(
    '--parts', action=argparse.BooleanOptionalAction, default=True
  )
  return parser.parse_args()


def choose_clock(cpu_time: bool) -> Clock:
  """The clock on the wall, or that of this process's work."""
  return time.process_time if cpu_time else time.perf_counter


def describe() -> str:
  """The machine, in words."""
  devices = jax.devices()
  return f'{len(devices)} x {devices[0].device_kind}, jax {jax.__version__}'


def make_config(
  method: str, size: str, dtype: str, identities: int, remat: bool = False
) -> Any:
  """The config of the method, at the paper's size or the rendered set's."""
  config = importlib.import_module(f'configs.{method}').get_config(SIZES[size])
  config.batch.identities = identities
  config.backbone.dtype = dtype
  config.backbone.remat = remat
  return config


def random_table(config: Any, classes: int = CLASSES) -> Table:
  """Noise: `classes` identities with as many images as a step needs."""
  count = max(config.batch.images_per_identity, 4)
  grid = itertools.product(range(classes), (VISIBLE, INFRARED), range(count))
  identity, modality, _ = np.array(list(grid)).T
  zeros = np.zeros_like(identity)
  size = (len(identity), *config.dataset.image_size, 3)
  rng = np.random.default_rng(0)
  pixels = np.frombuffer(rng.bytes(int(np.prod(size))), np.uint8)
  records = Records(identity, zeros, zeros, modality, zeros, zeros)
  return Table(pixels.reshape(size), records, '')


def matmul_peak(
  platform: str,
  dtype: Any,
  clock: Clock = time.perf_counter,
  repeats: int = 5,
) -> float:
  """Operations per second of the best of two square matrix products."""
  rates = []
  for side in PEAK_SIDES.get(platform, (4096, 8192)):
    key = jax.random.key(0)
    a = jax.random.normal(key, (side, side), dtype) / side**0.5

    @jax.jit
    def chain(a):
      x = a
      for _ in range(8):
        x = x @ a
      return x

    jax.block_until_ready(chain(a))
    seconds = min(timed(lambda chain=chain, a=a: chain(a), repeats, clock))
    rates.append(8 * 2 * side**3 / seconds)
  return max(rates)


class Driver:
  """A run's step over its feed, as the training loop has it."""

  def __init__(self, setup: Setup, clock: Clock = time.perf_counter):
    self.setup = setup
    self.clock = clock
    self.step = setup.step
    self.length = setup.steps_per_dispatch
    self.state = setup.init()
    self.inputs = (
      setup.feed.inputs(0, self.length)
      if self.length > 1
      else setup.feed.inputs(0)
    )

  def seconds_per_step(self, steps: int) -> float:
    """Of at least so many steps, waited for at the end alone."""
    dispatches = max(steps // self.length, 1)
    start = self.clock()
    for _ in range(dispatches):
      self.state, metrics = self.step(
        self.state, self.setup.feed.pixels, next(self.inputs), self.setup.key
      )
    jax.block_until_ready((self.state, metrics))
    return (self.clock() - start) / (dispatches * self.length)


def measure(
  config: Any,
  repeats: int,
  parts: bool = True,
  clock: Clock = time.perf_counter,
) -> Row:
  """Compiles and times the step of a config on noise."""
  # Too many steps to end, and intervals that a dispatch can divide.
  config.schedule.epochs = 1e4
  config.schedule.warmup_epochs = 0.0
  setup = experiment.build(config, random_table(config))
  driver = Driver(setup, clock)
  given = next(driver.inputs)
  start = clock()
  lowered = setup.step.lower(driver.state, setup.feed.pixels, given, setup.key)
  program = driver.step = lowered.compile()
  compile_seconds = clock() - start
  # A loop's body counts once, so these are of one step.
  counts = [c.cost_analysis() or {} for c in (program, lowered)]
  driver.seconds_per_step(2 * driver.length)  # warms up
  step = statistics.median(
    driver.seconds_per_step(max(1, repeats // 2)) for _ in range(3)
  )
  return Row(
    images=setup.images_per_step,
    step=step,
    compiled_flops=counts[0].get('flops', 0.0),
    flops=counts[1].get('flops', 0.0),
    compile=compile_seconds,
    parts=time_parts(config, setup, driver, repeats) if parts else {},
  )


def print_header():
  titles = TITLES.split(', ')
  print('| ' + ' | '.join(titles) + ' |')
  print('|' + ' ---: |' * len(titles), flush=True)


def print_row(identities: int, row: Row, peak: float):
  names = ('augmentation', 'forward', 'backward', 'optimizer', 'feed')
  parts = [f'{1e3 * row.parts[n]:.4g}' if row.parts else '' for n in names]
  cells = [
    str(identities),
    str(row.images),
    f'{row.images / row.step:.4g}',
    f'{1e3 * row.step:.4g}',
    f'{row.flops / row.images / 1e9:.4g}',
    f'{row.compiled_flops / row.images / 1e9:.4g}',
    f'{row.flops / row.step / peak:.1%}',
    *parts,
    f'{row.compile:.1f}',
  ]
  print('| ' + ' | '.join(cells) + ' |', flush=True)


if __name__ == '__main__':
  main()
