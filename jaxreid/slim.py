"""Checkpoints for the test alone: what training needed is left out.

Synopsis:

  python -m jaxreid.checkpoint slim WORKDIR [--replace] [--gray]

writes WORKDIR/slim, a workdir that `--mode=evaluate --workdir=WORKDIR/slim`
evaluates to the same digits. It lacks the optimizers, the players and the
private streams that embed neither visible nor infrared images (TS-GAN's
generators, discriminators and teacher, LUPI's Z stream) and the classifier.
Which arrays those are is found by tracing `Method.embed`.

LUPI embeds gray images by its Z stream: without `--gray` the searches that
need them are left out of the evaluation, and it says so.
"""

import argparse
import pathlib
import shutil
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from jaxreid import checkpoint, experiment, sharding
from jaxreid.branches import BRANCHES, MODALITIES
from jaxreid.experiment import Setup
from jaxreid.needed import (
  Name,
  complete,
  names,
  needed,
  needed_to_embed,
  shapes,
)
from jaxreid.train_state import TrainState
from jaxreid.workdir import CONFIG, DATA, read_config

FOLDER = 'slim'


class Sizes(NamedTuple):
  """What a checkpoint takes on disk.

  Attributes:
    step: of the checkpoint.
    before: bytes, with all that training needs.
    after: bytes, of the slim one.
    workdir: where the slim one is.
  """

  step: int
  before: int
  after: int
  workdir: pathlib.Path


def slim(
  workdir: str | pathlib.Path, replace: bool = False, gray: bool = False
) -> Sizes:
  """Writes WORKDIR/slim from the checkpoint that WORKDIR reports.

  Args:
    workdir: of a run.
    replace: put the slim checkpoint in the place of all of WORKDIR's, which
      then cannot be trained on.
    gray: also keep what gray images are embedded by.

  Raises:
    ValueError: if there is no run or no checkpoint, if it is slim already, or
      if one that is not finished is to be replaced.
  """
  folder = pathlib.Path(workdir).expanduser().absolute()
  config = read_config(folder)
  finished = (folder / 'results.json').exists()
  if replace and not finished:
    raise ValueError(
      f'{folder} has no results.json: the run may not be finished, and a slim '
      'checkpoint cannot be trained on; let it finish first, or leave out '
      '--replace'
    )
  part = folder / f'.{FOLDER}.part'
  shutil.rmtree(part, ignore_errors=True)
  part.mkdir()
  try:
    step, before, after = _write(folder, part, config, gray)
  except BaseException:
    shutil.rmtree(part, ignore_errors=True)
    raise
  for name in (CONFIG, DATA):
    shutil.copyfile(folder / name, part / name)
  if replace:
    return Sizes(step, before, after, _exchange(folder, part))
  shutil.rmtree(folder / FOLDER, ignore_errors=True)
  part.rename(folder / FOLDER)
  return Sizes(step, before, after, folder / FOLDER)


def _write(
  folder: pathlib.Path,
  part: pathlib.Path,
  config: ml_collections.ConfigDict,
  gray: bool,
) -> tuple[int, int, int]:
  """Writes the slim checkpoint: its step, the size before and after."""
  method = experiment.make_method(config, 2)  # classes matter in training only
  size = tuple(config.dataset.image_size)
  variables = shapes(method, size)
  wanted = BRANCHES if gray else MODALITIES
  used = names(needed_to_embed(method, variables, size, wanted))
  keep_best = bool(config.dataset.validation_identities)
  place = sharding.replicated(sharding.make_mesh(jax.devices()[:1]))
  with checkpoint.open_checkpoints(folder, keep_best) as checkpoints:
    step = _step_of(checkpoints, keep_best, folder)
    about = checkpoint.about(checkpoints, step)
    if 'slim' in about:
      raise ValueError(f'checkpoint {step} of {folder} is slim already')
    tree = checkpoint.restore_part(checkpoints, step, used | {('step',)}, place)
    state = TrainState(
      tree['step'], tree.get('params', {}), tree.get('model_state', {}), {}
    )
    facts = _facts(method, checkpoints, step, size, place)
    before = _bytes(checkpoints.directory / str(step))
    metrics = checkpoints.metrics(step)
  with checkpoint.open_checkpoints(part, keep_best) as checkpoints:
    checkpoint.save(
      checkpoints, state, metrics, about.get('trained_on'), {'facts': facts}
    )
    checkpoints.wait_until_finished()
    return step, before, _bytes(checkpoints.directory / str(step))


def _step_of(checkpoints: Any, keep_best: bool, folder: pathlib.Path) -> int:
  step = checkpoint.reported_step(checkpoints, keep_best)
  if step is None:
    parts = sorted(p.parent.name for p in folder.glob(f'*/{CONFIG}'))
    where = f'; its splits are {", ".join(parts)}' if parts else ''
    raise ValueError(
      f'{folder} has no checkpoint to make slim; train there first{where}'
    )
  return step


def _facts(
  method: Any,
  checkpoints: Any,
  step: int,
  size: tuple[int, int],
  place: jax.sharding.Sharding,
) -> list[str]:
  """The method's sentences, which may need more than is kept."""
  if method.facts is None:
    return []
  there = checkpoint.saved_arrays(checkpoints, step)
  wanted = {path for path in there if path[0] in ('params', 'model_state')}
  tree = checkpoint.restore_part(checkpoints, step, wanted, place)
  params = tree.get('params', {})
  states = {p: tree.get('model_state', {}).get(p, {}) for p in params}
  return method.facts({'params': params, 'model_state': states}, size)


def _exchange(folder: pathlib.Path, part: pathlib.Path) -> pathlib.Path:
  """Puts the slim checkpoints in the place of the full ones."""
  full = folder / '.checkpoints.full'
  (folder / 'checkpoints').rename(full)
  (part / 'checkpoints').rename(folder / 'checkpoints')
  shutil.rmtree(full)
  shutil.rmtree(part)
  return folder


def _bytes(folder: Any) -> int:
  return sum(
    path.stat().st_size
    for path in pathlib.Path(folder).rglob('*')
    if path.is_file()
  )


class Opened(NamedTuple):
  """A slim checkpoint, ready for evaluation.

  Attributes:
    setup: the run's, whose method draws and tells what can still be told.
    state: whole in shape; what was left out is NaN, so that a use of it shows.
    branches: of 'visible', 'infrared' and 'gray', which can be embedded.
  """

  setup: Setup
  state: TrainState
  branches: tuple[str, ...]


def open_slim(
  setup: Setup, image_size: tuple[int, int], checkpoints: Any, step: int
) -> Opened | None:
  """The slim checkpoint of `step`; None if it is an ordinary one.

  Args:
    setup: of the run.
    image_size: (height, width).
    checkpoints: the manager.
    step: of the checkpoint.

  Raises:
    ValueError: if it holds another model, or less than the test needs.
  """
  notes = checkpoint.about(checkpoints, step).get('slim')
  if notes is None:
    return None
  state = setup.shapes()
  there = set(checkpoint.saved_arrays(checkpoints, step))
  used = {
    branch: names(
      needed_to_embed(setup.method, state.variables, image_size, (branch,))
    )
    for branch in BRANCHES
  }
  wanted = {('step',)}.union(*(used[branch] for branch in MODALITIES))
  place = sharding.replicated(setup.mesh)
  tree = checkpoint.restore_part(checkpoints, step, there | wanted, place)
  params, states = tree.get('params', {}), tree.get('model_state', {})
  method = setup.method._replace(facts=_told(notes, setup.method.facts))
  if method.views and not _views_need(setup, image_size) <= there:
    method = method._replace(views=None)
  return Opened(
    setup._replace(method=method),
    state.replace(
      step=tree['step'],
      params=jax.device_put(complete(state.params, params), place),
      model_state=jax.device_put(complete(state.model_state, states), place),
      opt_state={},
    ),
    tuple(branch for branch, arrays in used.items() if arrays <= there),
  )


def _told(notes: dict[str, Any], facts: Any) -> Any:
  if facts is None:
    return None
  return lambda variables, image_size: list(notes['facts'])


def _views_need(setup: Setup, image_size: tuple[int, int]) -> set[Name]:
  views = setup.method.views
  assert views is not None

  def draw_all(variables: Any, images: Any) -> list[Any]:
    return [views(variables, images, m) for m in MODALITIES]

  images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.uint8)
  return names(needed(draw_all, setup.shapes().variables, images))


def main(argv: Sequence[str] | None = None):
  """`python -m jaxreid.checkpoint slim WORKDIR`."""
  parser = argparse.ArgumentParser('python -m jaxreid.checkpoint')
  commands = parser.add_subparsers(required=True, metavar='slim')
  command = commands.add_parser('slim', help='write WORKDIR/slim, for the test')
  command.add_argument('workdir', type=pathlib.Path, metavar='WORKDIR')
  command.add_argument(
    '--replace',
    action='store_true',
    help="take the place of the run's own checkpoints",
  )
  command.add_argument(
    '--gray', action='store_true', help='keep what embeds gray images, too'
  )
  options = parser.parse_args(argv)
  try:
    sizes = slim(options.workdir, options.replace, options.gray)
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)
  before, after = (f'{n / 1e6:.2f} MB' for n in (sizes.before, sizes.after))
  print(f'checkpoint {sizes.step}: {before} before, {after} after')
  print(f'written to {sizes.workdir}; it can be evaluated, not trained')
