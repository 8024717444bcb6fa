"""What a training step costs as a run grows, from the compiler.

  python -m benchmarks.growth

compiles LUPI's step at the size of the rendered set for simulated CPU devices,
changes one thing at a time, and prints per device: operations, temporaries,
arguments (parameters, optimizer state, pixels), exchanges and bytes sent.
Nothing is run, so the figures are the same on any machine. `--optimize`
compiles as a run does; without it, memory is higher and the rest the same.
"""

import argparse
import os

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)

import jax

from benchmarks.train_step import make_config
from jaxreid import experiment, sharding
from jaxreid.floor import examine

# What one row has in place of the first row's.
ROWS = (
  {},
  {'devices': 1},
  {'devices': 2},
  {'devices': 4},
  {'identities': 4},
  {'identities': 16},
  {'identities': 32},
  {'size': (192, 96)},
  {'classes': 1000},
  {'classes': 10000},
  {'remat': True},
)
FIRST = {
  'devices': 8,
  'identities': 8,
  'size': (96, 48),
  'classes': 200,
  'remat': False,
}
TITLES = (
  'devices',
  'identities x 4 images',
  'image',
  'people trained on',
  'remat',
  'GFLOP',
  'temporaries MB',
  'arguments MB',
  'exchanges',
  'sent MB',
)


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--optimize', action='store_true')
  options = parser.parse_args()
  print('| ' + ' | '.join(TITLES) + ' |')
  print('|' + ' ---: |' * len(TITLES), flush=True)
  for changes in ROWS:
    print_row({**FIRST, **changes}, changes, options.optimize)


def print_row(given: dict, changes: dict, optimize: bool):
  """Compiles a step and prints it; what was changed is in bold."""
  config = make_config(
    'lupi', 'small', 'float32', given['identities'], given['remat']
  )
  config.dataset.image_size = given['size']
  mesh = sharding.make_mesh(jax.devices()[: given['devices']])
  outline = experiment.outline(config, mesh, given['classes'])
  level = {} if optimize else {'xla_backend_optimization_level': 0}
  lowered = outline.step.lower(*outline.arguments)
  program = examine(lowered.compile(compiler_options=level), mesh.size)
  sent = [c for c in program.collectives if c.sent]
  shown = {**given, 'size': 'x'.join(map(str, given['size']))}
  cells = [
    f'**{value}**' if name in changes else str(value)
    for name, value in shown.items()
  ]
  cells += [
    f'{program.flops / 1e9:.2f}',
    f'{program.temporaries / 1e6:.1f}',
    f'{program.arguments / 1e6:.1f}',
    str(len(sent)),
    f'{program.sent / 1e6:.2f}',
  ]
  print('| ' + ' | '.join(cells) + ' |', flush=True)


if __name__ == '__main__':
  main()
