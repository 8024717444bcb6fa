"""Imports run one way: every arrow that `ROOMS` does not allow fails.

A room is a module or a package; a module belongs to the room with the longest
matching name. Its row says which other rooms and which third-party packages it
may import; its own room and the standard library are always open. A room
inside another (`jaxreid.data.source`) has to be named itself.
"""

import ast
import pathlib
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).parents[1]

EVERYWHERE = ('absl', 'jax', 'jaxtyping', 'numpy')

# room: (what it may import of ours, third-party packages beside EVERYWHERE)
ROOMS = {
  # Entry points: anything below them.
  'jaxreid.main': (('jaxreid',), ('ml_collections',)),
  'jaxreid.search': (('jaxreid',), ()),
  'jaxreid.tables': (('jaxreid',), ()),
  'jaxreid.report': (('jaxreid',), ()),
  'jaxreid.export': (('jaxreid',), ()),
  'jaxreid.dry_run': (('jaxreid', 'tfds_builders'), ('ml_collections',)),
  'jaxreid.command_line': ((), ('ml_collections',)),
  # Tables of the papers: data, the runs that they need, and how they look.
  'jaxreid.published': ((), ()),
  'jaxreid.table_runs': (('jaxreid.published',), ('tqdm',)),
  'jaxreid.table_text': (('jaxreid.published', 'jaxreid.table_runs'), ()),
  # Published figures and the reading of compiled programs.
  'jaxreid.chips': ((), ()),
  'jaxreid.collectives': ((), ()),
  'jaxreid.floor': (('jaxreid.chips', 'jaxreid.collectives'), ()),
  'jaxreid.topology': (('jaxreid.chips',), ()),
  # The run.
  'jaxreid.train': (
    (
      'jaxreid.branches',
      'jaxreid.checkpoint',
      'jaxreid.data.source',
      'jaxreid.dispatch',
      'jaxreid.evaluation',
      'jaxreid.experiment',
      'jaxreid.health',
      'jaxreid.metric_writer',
      'jaxreid.processes',
      'jaxreid.results',
      'jaxreid.showing',
      'jaxreid.slim',
      'jaxreid.train_state',
      'jaxreid.workdir',
    ),
    ('clu', 'ml_collections'),
  ),
  'jaxreid.trials': (
    (
      'jaxreid.checkpoint',
      'jaxreid.evaluation',
      'jaxreid.processes',
      'jaxreid.results',
      'jaxreid.showing',
      'jaxreid.teacher',
      'jaxreid.train',
      'jaxreid.workdir',
    ),
    ('ml_collections',),
  ),
  'jaxreid.teacher': (
    (
      'jaxreid.checkpoint',
      'jaxreid.experiment',
      'jaxreid.methods',
      'jaxreid.optim',
      'jaxreid.processes',
      'jaxreid.results',
      'jaxreid.train',
      'jaxreid.train_state',
      'jaxreid.workdir',
    ),
    ('flax', 'ml_collections'),
  ),
  'jaxreid.results': (
    (
      'jaxreid.branches',
      'jaxreid.data.source',
      'jaxreid.evaluation',
      'jaxreid.experiment',
      'jaxreid.method',
      'jaxreid.models',
      'jaxreid.needed',
      'jaxreid.train_state',
      'jaxreid.workdir',
    ),
    ('ml_collections',),
  ),
  'jaxreid.showing': (
    (
      'jaxreid.data.source',
      'jaxreid.evaluation',
      'jaxreid.experiment',
      'jaxreid.pictures',
      'jaxreid.ranked_lists',
      'jaxreid.reports',
      'jaxreid.train_state',
    ),
    ('ml_collections',),
  ),
  'jaxreid.pictures': (
    (
      'jaxreid.augment',
      'jaxreid.data.source',
      'jaxreid.evaluation',
      'jaxreid.experiment',
      'jaxreid.metric_writer',
      'jaxreid.sharding',
    ),
    ('PIL',),
  ),
  'jaxreid.ranked_lists': (('jaxreid.evaluation',), ('PIL',)),
  'jaxreid.reports': (
    (
      'jaxreid.data.source',
      'jaxreid.distance',
      'jaxreid.evaluation',
      'jaxreid.workdir',
    ),
    ('PIL', 'ml_collections'),
  ),
  'jaxreid.branches': (
    (
      'jaxreid.data.source',
      'jaxreid.evaluation',
      'jaxreid.experiment',
      'jaxreid.sharding',
      'jaxreid.train_state',
    ),
    ('ml_collections',),
  ),
  'jaxreid.slim': (
    (
      'jaxreid.branches',
      'jaxreid.checkpoint',
      'jaxreid.experiment',
      'jaxreid.needed',
      'jaxreid.sharding',
      'jaxreid.train_state',
      'jaxreid.workdir',
    ),
    ('ml_collections',),
  ),
  'jaxreid.embedder': (
    (
      'jaxreid.checkpoint',
      'jaxreid.data.source',
      'jaxreid.evaluation',
      'jaxreid.experiment',
      'jaxreid.needed',
      'jaxreid.sharding',
      'jaxreid.workdir',
    ),
    ('PIL',),
  ),
  'jaxreid.exports': (
    ('jaxreid.embedder',),
    ('PIL', 'jax2onnx', 'onnxruntime', 'tensorflow'),
  ),
  'jaxreid.image_files': (('jaxreid.data.source',), ('PIL',)),
  'jaxreid.search_index': (
    ('jaxreid.embedder', 'jaxreid.evaluation', 'jaxreid.workdir'),
    (),
  ),
  'jaxreid.indexing': (
    ('jaxreid.embedder', 'jaxreid.image_files', 'jaxreid.search_index'),
    ('tqdm',),
  ),
  'jaxreid.search_page': (
    ('jaxreid.data.source', 'jaxreid.search_index'),
    ('PIL',),
  ),
  'jaxreid.health': (('jaxreid.dispatch', 'jaxreid.train_state'), ()),
  'jaxreid.dispatch': (
    ('jaxreid.data', 'jaxreid.train_state'),
    ('ml_collections',),
  ),
  'jaxreid.needed': (('jaxreid.method',), ()),
  'jaxreid.workdir': ((), ('ml_collections',)),
  # The one file that turns names into objects.
  'jaxreid.experiment': (
    (
      'jaxreid.config_checks',
      'jaxreid.dispatch',
      'jaxreid.initial_weights',
      'jaxreid.data',
      'jaxreid.data.source',
      'jaxreid.method',
      'jaxreid.methods',
      'jaxreid.models',
      'jaxreid.optim',
      'jaxreid.sharding',
      'jaxreid.train_state',
      'jaxreid.train_step',
    ),
    ('ml_collections', 'optax'),
  ),
  'jaxreid.config_checks': (
    ('jaxreid.data', 'jaxreid.evaluation'),
    ('ml_collections',),
  ),
  'jaxreid.initial_weights': (
    (
      'jaxreid.method',
      'jaxreid.methods',
      'jaxreid.models.pretrained',
      'jaxreid.train_state',
    ),
    ('ml_collections',),
  ),
  # As a command it is the door to slim.
  'jaxreid.checkpoint': (('jaxreid.slim', 'jaxreid.train_state'), ('orbax',)),
  'jaxreid.metric_writer': ((), ('PIL', 'tensorboardX')),
  'jaxreid.train_state': (('jaxreid.method',), ('flax', 'optax')),
  'jaxreid.train_step': (
    ('jaxreid.method', 'jaxreid.train_state'),
    ('flax', 'optax'),
  ),
  # The parts.
  'jaxreid.method': ((), ()),
  'jaxreid.methods': (
    ('jaxreid.augment', 'jaxreid.losses', 'jaxreid.method', 'jaxreid.models'),
    ('flax',),
  ),
  'jaxreid.models': ((), ('flax',)),
  'jaxreid.models.pretrained': (
    ('jaxreid.models',),
    ('flax', 'safetensors', 'torch'),
  ),
  'jaxreid.losses': (('jaxreid.distance',), ()),
  'jaxreid.augment': ((), ()),
  'jaxreid.optim': ((), ('optax',)),
  'jaxreid.distance': ((), ()),
  'jaxreid.sharding': ((), ()),
  'jaxreid.processes': ((), ()),
  'jaxreid.data': (
    ('jaxreid.data.source', 'jaxreid.sharding'),
    ('PIL', 'grain', 'tensorflow_datasets', 'tqdm'),
  ),
  'jaxreid.data.source': (
    ('tfds_builders.prepare',),
    ('PIL', 'tensorflow_datasets', 'tqdm'),
  ),
  'jaxreid.evaluation': (
    ('jaxreid.data.source', 'jaxreid.distance', 'jaxreid.sharding'),
    ('tqdm',),
  ),
  'jaxreid': (('jaxreid.embedder',), ()),
  # Outside the library.
  'configs': ((), ('ml_collections',)),
  'tfds_builders': ((), ('PIL', 'scipy', 'tensorflow_datasets', 'tqdm')),
}

# Nobody imports these, whatever a row says.
ENTRY_POINTS = (
  'jaxreid.dry_run',
  'jaxreid.export',
  'jaxreid.main',
  'jaxreid.models.pretrained.__main__',
  'jaxreid.report',
  'jaxreid.search',
  'jaxreid.tables',
)

# Slow, heavy or optional: inside the function that needs them, never on top.
# (room, what it imports)
LAZY = (
  ('jaxreid', 'jaxreid.embedder'),
  ('jaxreid.data.source', 'tfds_builders'),
  ('jaxreid.exports', 'jax2onnx'),
  ('jaxreid.exports', 'onnxruntime'),
  ('jaxreid.exports', 'tensorflow'),
  ('jaxreid.models.pretrained', 'safetensors'),
  ('jaxreid.models.pretrained', 'torch'),
)

# Rooms that may be read without JAX.
NO_JAX = ('configs', 'tfds_builders')


class Import(NamedTuple):
  target: str
  line: int
  on_top: bool


def within(name: str, package: str) -> bool:
  return name == package or name.startswith(package + '.')


def room_of(module: str) -> str:
  rooms = [room for room in ROOMS if within(module, room)]
  # A new file beside main.py needs a row of its own.
  if not rooms or (rooms == ['jaxreid'] and module != 'jaxreid'):
    raise LookupError(f'{module} has no row in ROOMS')
  return max(rooms, key=len)


def room_of_target(target: str) -> str:
  return max(
    (room for room in ROOMS if within(target, room)), key=len, default=''
  )


def permits(name: str, target: str) -> bool:
  """Whether `name` in a row lets `target` in: a room, not the rooms in it."""
  if name in ROOMS and name != 'jaxreid':
    return room_of_target(target) == name
  return within(target, name)


def imports(source: str) -> Iterator[Import]:
  tree = ast.parse(source)
  inside = {
    id(node)
    for function in ast.walk(tree)
    if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    for node in ast.walk(function)
  }
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      prefix = '.' * node.level + (node.module or '')
      names = [f'{prefix}.{alias.name}' for alias in node.names]
    else:
      continue
    for name in names:
      yield Import(name, node.lineno, id(node) not in inside)


def forbidden(module: str, source: str) -> list[str]:
  """One sentence per import that `ROOMS` does not allow."""
  room = room_of(module)
  ours, theirs = ROOMS[room]
  if room in NO_JAX:
    theirs += ('absl', 'jaxtyping', 'numpy')
  else:
    theirs += EVERYWHERE
  found = []
  for target, line, on_top in imports(source):
    own = room_of_target(target) == room
    allowed = own or any(permits(name, target) for name in ours + theirs)
    if target.split('.')[0] in sys.stdlib_module_names:
      allowed = True
    if target in ('jaxreid', 'jaxreid.__version__'):
      allowed = True
    if any(within(target, name) for name in ENTRY_POINTS) and not own:
      allowed = False
    if not allowed:
      found.append(f'{module}:{line} may not import {target}')
    elif on_top and any(
      room == place and within(target, name) for place, name in LAZY
    ):
      found.append(f'{module}:{line} must import {target} in a function')
  return found


def modules() -> Iterator[tuple[str, pathlib.Path]]:
  for package in ('jaxreid', 'configs', 'tfds_builders'):
    for path in sorted((ROOT / package).rglob('*.py')):
      if path.name.endswith('_test.py'):
        continue
      parts = path.relative_to(ROOT).with_suffix('').parts
      yield '.'.join(p for p in parts if p != '__init__'), path


@pytest.mark.parametrize(
  ('module', 'path'), [pytest.param(m, p, id=m) for m, p in modules()]
)
def test_imports_run_one_way(module, path):
  assert not forbidden(module, path.read_text())


@pytest.mark.parametrize(
  ('module', 'source'),
  [
    ('jaxreid.losses.triplet', 'import flax.linen as nn'),
    ('jaxreid.losses.triplet', 'from jaxreid import models'),
    ('jaxreid.losses.triplet', 'from jaxreid.method import Key'),
    ('jaxreid.losses.triplet', 'def f():\n  import optax'),
    ('jaxreid.methods.xiv', 'from jaxreid.distance import pairwise_euclidean'),
    ('jaxreid.models.resnet', 'from jaxreid.models import pretrained'),
    ('jaxreid.methods.lupi', 'from jaxreid.models import pretrained'),
    ('jaxreid.evaluation.evaluate', 'from jaxreid.data import feed'),
    ('jaxreid.augment.color', 'from ..method import Key'),
    ('jaxreid.train', 'import orbax.checkpoint as ocp'),
    ('jaxreid.train', 'from jaxreid import main'),
    ('jaxreid.train', 'import jaxreid.main'),
    ('jaxreid.data.feed', 'from tfds_builders import prepare'),
    ('jaxreid.data.source', 'from tfds_builders import prepare'),
    ('jaxreid.data.source', 'def f():\n  import tfds_builders.synthetic_reid'),
    ('jaxreid.models.pretrained', 'import torch'),
    ('tfds_builders.regdb.builder', 'import jax'),
    ('tfds_builders.regdb.builder', 'import tensorflow as tf'),
    ('configs.lupi', 'from jaxreid import losses'),
  ],
)
def test_the_checker_sees_a_forbidden_import(module, source):
  assert len(forbidden(module, source)) == 1


@pytest.mark.parametrize(
  ('module', 'source'),
  [
    ('jaxreid.losses.triplet', 'import os, jax.numpy as jnp, numpy as np'),
    ('jaxreid.losses', 'from jaxreid.losses.triplet import cyclic_triplet'),
    ('jaxreid.evaluation.evaluate', 'from jaxreid.data import source'),
    ('jaxreid.main', 'from jaxreid import train'),
    ('jaxreid.data.source', 'def f():\n  from tfds_builders import prepare'),
    ('jaxreid.models.pretrained', 'def f():\n  import torch'),
    ('configs.lupi', 'from configs import common'),
  ],
)
def test_the_checker_lets_an_allowed_import_pass(module, source):
  assert not forbidden(module, source)


def test_a_module_without_a_row_is_noticed():
  with pytest.raises(LookupError, match='trainer has no row'):
    room_of('jaxreid.trainer')
