"""Does a run fit on a TPU slice, and what would bound it? Without the TPU.

  pip install 'jaxreid[tpu-dry-run]'
  python -m jaxreid.dry_run --config=configs/lupi.py:dataset=sysu_mm01 \\
    --topology=v5e:16x16 --batch=256

compiles the training step and the embedding step of the config for the slice
with the TPU compiler, on any machine, without the dataset, and prints memory
per chip, operations, collectives and the floors of the step time by the chip's
published figures. `--batch` is the number of identities in a step.

A ResNet-50 step takes minutes of CPU to compile and a few GB of memory. With
`--quick` it takes a fifth: work and exchanges are the same, memory is an upper
bound (LUPI on v5e:2x2: 5 % above). The pixels are fed by the host; with
`dataset.residency='device'` the table of pixels comes on top (SYSU-MM01: 4.3
GB). Topologies: v3, v4, v5e, v5p or v6e, a colon and the chips along each axis,
as in v5e:2x2, v4:2x2x1, v5p:4x4x4.
"""

import functools
import importlib
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
from absl import app, flags, logging

from jaxreid import command_line
from jaxreid.chips import SECONDS_PER_HOP
from jaxreid.floor import Floor, Program, examine, floor
from jaxreid.topology import Slice, open_slice

flags.DEFINE_string(
  'topology', None, 'Chip and chips along each axis, such as v5e:16x16.'
)
_BATCH = flags.DEFINE_integer(
  'batch', 0, 'Identities in a step; 0 for the config.'
)
_CLASSES = flags.DEFINE_integer(
  'classes', 0, 'Identities trained on; 0 for what is published of the dataset.'
)
_QUICK = flags.DEFINE_boolean(
  'quick', False, 'Compile with less effort; memory is then an upper bound.'
)


def main(argv: Sequence[str]):
  """Compiles for the topology and prints what the compiler says."""
  if len(argv) > 1:
    command_line.fail(f'unexpected argument {argv[1]!r}')
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)
  config = command_line.CONFIG.value
  if _BATCH.value:
    config.batch.identities = _BATCH.value
  try:
    classes = _CLASSES.value or published_classes(config)
    check_identities(config, classes)
    where = open_slice(flags.FLAGS.topology)
    fits = report(config, where, classes)
  except ValueError as error:
    command_line.fail(error)
  if not fits:
    raise SystemExit(2)


def published_classes(config: ml_collections.ConfigDict) -> int:
  """Identities in the training split, as published of the dataset.

  Raises:
    ValueError: if the dataset is none of ours.
  """
  name = config.dataset.name
  module = f'tfds_builders.{name}.{name}_dataset_builder'
  try:
    builder = importlib.import_module(module)
    figures = builder.expected_counts(config.dataset.config)
    return figures['train identities']
  except (ImportError, KeyError) as error:
    raise ValueError(
      f'how many people {name} trains on is not known here; give --classes'
    ) from error


def check_identities(config: ml_collections.ConfigDict, classes: int):
  """Whether a step can be drawn from so many people.

  Raises:
    ValueError: if not.
  """
  count = config.batch.identities
  if not 2 <= count <= classes:
    raise ValueError(
      f'a step of {count} identities cannot be drawn from the {classes} that '
      f'{config.dataset.name} trains on: --batch is from 2 to {classes}'
    )


def report(
  config: ml_collections.ConfigDict, where: Slice, classes: int
) -> bool:
  """Compiles both steps and prints a paragraph on each.

  Returns:
    Whether both fit.

  Raises:
    ValueError: whatever the config gets wrong, in a sentence.
  """
  from jaxreid import experiment, sharding

  mesh = sharding.make_mesh(where.devices)
  outline = experiment.outline(config, mesh, classes)
  count = config.batch.identities * config.batch.images_per_identity
  print(
    f'{config.method.name}, {config.dataset.name}, {where.name}: {where.chips} '
    f'chips ({len(where.devices)} devices), {config.batch.identities} '
    f'identities x {config.batch.images_per_identity} images of each modality '
    f'= {count // len(where.devices)} of each per device, '
    f'{config.backbone.dtype}, {classes} classes\n'
    f'{_versions()}; pixels fed by the host; peak figures of the chips are '
    "those of Google's documentation (jaxreid/chips.py)"
    + ('; --quick: memory is an upper bound' if _QUICK.value else ''),
    flush=True,
  )
  fits = True
  for title, lower in (
    ('training step', lambda: outline.step.lower(*outline.arguments)),
    ('embedding step', lambda: _lower_embed(config, outline, mesh)),
  ):
    start = time.monotonic(), time.process_time()
    program = _compile(lower, mesh.size)
    seconds = time.monotonic() - start[0]
    cpu = time.process_time() - start[1]
    took = f'{seconds:.0f} s, {cpu:.0f} s of CPU'
    print(f'\n{title}, per device (compiled in {took})', flush=True)
    if isinstance(program, str):
      lines = advice(config, where, share=_share_that_fits(program))
      print('\n'.join([f'  does not fit: {program}', *lines]))
      fits = False
      continue
    fits = describe(program, config, where) and fits
  return fits


def _lower_embed(
  config: ml_collections.ConfigDict, outline: Any, mesh: Any
) -> Any:
  """The embedding of a batch, as the evaluation compiles it."""
  import jax
  import numpy as np

  from jaxreid import sharding
  from jaxreid.evaluation import embedding

  size = config.evaluation.batch_size
  images = jax.ShapeDtypeStruct(
    (size + -size % mesh.size, *config.dataset.image_size, 3),
    np.uint8,
    sharding=sharding.batch_sharding(mesh),
  )
  embed = jax.tree_util.Partial(
    functools.partial(outline.method.embed, modality='infrared'),
    outline.arguments[0].variables,
  )
  return embedding.embed_batch.lower(embed, images)


def _compile(lower: Callable[[], Any], devices: int) -> Program | str:
  """The program, or the compiler's sentence on its memory."""
  import jax

  lowered = lower()
  if _QUICK.value:
    jax.config.update('jax_exec_time_optimization_effort', -1.0)
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return str(error).splitlines()[0].removeprefix('RESOURCE_EXHAUSTED: ')
  return examine(compiled, devices)


def _share_that_fits(refusal: str) -> float:
  """From the compiler's 'required (54.58G) exceeds available HBM (15.75G)'."""
  sizes = re.search(r'\(([\d.]+)G\) exceeds [^(]*\(([\d.]+)G\)', refusal)
  # Arguments and code take their part, too.
  return 0.9 * float(sizes[2]) / float(sizes[1]) if sizes else 0.5


def describe(
  program: Program, config: ml_collections.ConfigDict, where: Slice
) -> bool:
  """Prints what the compiler says of a program; returns whether it fits."""
  fits = program.peak <= where.memory
  share = program.peak / where.memory
  print(
    f'  memory: arguments {_gb(program.arguments)}, temporaries '
    f'{_gb(program.temporaries)}, together {_gb(program.peak)} of '
    f'{_gb(where.memory)} ({share:.0%}): '
    + ('fits' if fits else 'does not fit')
  )
  if not fits:
    print('\n'.join(advice(config, where, program)))
  times = floor(program, where.chip, where.shape, where.devices_per_chip)
  print(
    f'  work: {program.flops / 1e9:,.1f} GFLOP, {_gb(program.accessed)} '
    f'accessed, {program.sent / 1e6:,.1f} MB sent to other devices'
  )
  print('\n'.join(_collectives(program)))
  print('\n'.join(_floors(times)))
  return fits


def _collectives(program: Program) -> list[str]:
  """A line per kind, with the largest arrays."""
  lines = []
  kinds = Counter(c.kind for c in program.collectives)
  for kind, count in kinds.items():
    of_kind = [c for c in program.collectives if c.kind == kind]
    size = sum(c.size for c in of_kind)
    largest = max(of_kind, key=lambda c: c.size)
    shapes = largest.shapes
    lines.append(
      f'  {kind}: {count}, {size / 1e6:,.2f} MB; the largest '
      f'{largest.size / 1e6:,.2f} MB, '
      + (f'{len(shapes)} arrays' if len(shapes) > 1 else f'{shapes[0]}')
    )
  return lines or ['  no collectives']


def _floors(times: Floor) -> list[str]:
  low, high = times.efficiency
  latency = f'{SECONDS_PER_HOP * 1e6:.0f} us a hop'
  return [
    f'  floors: compute {_ms(times.compute)}, memory {_ms(times.memory)}, '
    f'interconnect {_ms(times.interconnect)}, latency {_ms(times.latency)} '
    f'({latency})',
    f'  at least {_ms(times.step)}; scaling efficiency {low:.0%} if exchanges '
    f'hide behind nothing, {high:.0%} if wholly',
  ]


def advice(
  config: ml_collections.ConfigDict,
  where: Slice,
  program: Program | None = None,
  share: float = 0.5,
) -> list[str]:
  """What to change where a step does not fit, one line each.

  Args:
    config: of the run.
    where: the slice.
    program: what was compiled, if it could be.
    share: of the batch that may fit, where it could not.
  """
  lines = ['  to make it fit:']
  identities = config.batch.identities
  if program and program.peak > program.arguments:
    free = where.memory - program.arguments
    fitting = identities * free / (program.peak - program.arguments)
    identities = int(fitting)
  else:
    identities = int(identities * share)
  # The number of images has to be a multiple of the devices.
  unit = len(where.devices) // math.gcd(
    len(where.devices), config.batch.images_per_identity
  )
  identities -= identities % unit
  if identities >= 2:
    lines.append(f'    --batch={identities}, so many identities in a step')
  if not config.backbone.remat:
    lines.append(
      '    --config.backbone.remat=True computes feature maps twice instead of '
      'keeping them'
    )
  if config.backbone.dtype == 'float32':
    lines.append(
      '    --config.backbone.dtype=bfloat16 halves what feature maps take'
    )
  lines.append('    more chips for the same batch')
  return lines


def _versions() -> str:
  from importlib import metadata

  return ', '.join(
    f'{name} {metadata.version(name)}' for name in ('jax', 'libtpu')
  )


def _gb(size: float | int) -> str:
  return f'{size / 1e9:,.2f} GB'


def _ms(seconds: float) -> str:
  return f'{seconds * 1e3:,.3g} ms'


def _parse_flags(argv: Sequence[str]) -> list[str]:
  # There is no TPU here, and a GPU is not to be woken.
  os.environ['JAX_PLATFORMS'] = 'cpu'
  return command_line.parse(argv, 'jaxreid.dry_run', ('config', 'topology'))


if __name__ == '__main__':
  app.run(main, flags_parser=_parse_flags)
