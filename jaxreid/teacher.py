"""Training in two stages: a teacher, and the student that it guides.

Synopsis, in place of the functions of `jaxreid.train` of these names:

  run = open_run(config, workdir)
  train(run)

A config with a field `teacher` has two stages. The first is an ordinary run
in WORKDIR/teacher, by the config with the sections of `config.teacher_run` in
place of its own; it is reused where it is finished. `config.teacher` names a
finished run to be used in its place. The second starts with the first stages
of that network as its frozen player 'teacher'. From then on they are part of
the student's checkpoint: to resume or to evaluate it, no teacher is needed.
"""

import functools
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import ml_collections

from jaxreid import checkpoint, experiment, optim, processes, results
from jaxreid import train as single
from jaxreid.methods.baseline import PLAYER
from jaxreid.methods.guidance import TEACHER
from jaxreid.train import Run, RunError
from jaxreid.train_state import TrainState
from jaxreid.workdir import CONFIG

FOLDER = 'teacher'
# Fields of config.backbone that make no other network.
_SAME_NETWORK = ('pretrained', 'dtype', 'remat')


def open_run(
  config: ml_collections.ConfigDict,
  workdir: str | os.PathLike,
  exists: bool = False,
) -> Run:
  """`jaxreid.train.open_run`, after a look at the teacher that is named.

  Raises:
    ValueError: also if `config.teacher` cannot be the teacher of this run.
  """
  if _needs_teacher(config, pathlib.Path(workdir)) and config.teacher:
    _check_given(config)
  return single.open_run(config, workdir, exists)


def train(run: Run) -> TrainState:
  """Trains, or goes on with, the teacher (if there is one) and the run.

  On SIGTERM the state is saved and the process exits with status 0, in either
  stage.

  Raises:
    RunError: as `jaxreid.train.train` does, or if WORKDIR/teacher holds
      something else.
  """
  if not _needs_teacher(run.config, run.workdir):
    return single.train(run)
  folder = pathlib.Path(run.config.teacher).expanduser().absolute()
  if not run.config.teacher:
    folder = run.workdir / FOLDER
    _train_teacher(run.config, folder)
    processes.say(f'second stage: the student, in {run.workdir}')
  keep_best = bool(run.config.dataset.validation_identities)
  init = functools.partial(_init, run.setup.init, folder, keep_best)
  return single.train(run._replace(setup=run.setup._replace(init=init)))


def teacher_config(
  config: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  """The config of the first stage: no second one, no plug-ins."""
  first = config.copy_and_resolve_references()
  sections = first.teacher_run
  with first.unlocked():
    for field in ('teacher', 'teacher_run', 'player_optimizers', 'plugins'):
      if field in first:
        del first[field]
    for name, section in sections.items():
      first[name] = section
  first.weights = ''  # a student's
  first.evaluation.rerank = False  # nothing is searched across modalities
  return first


def fill(
  state: TrainState, folder: str | pathlib.Path, keep_best: bool = False
) -> TrainState:
  """The state with the network trained in `folder` as its teacher.

  Args:
    state: of a student.
    folder: a teacher's workdir; its first stages alone are read.
    keep_best: whether that run chose a best checkpoint.

  Raises:
    ValueError: if there is no checkpoint, or one of another network.
  """
  own = {'params': state.params, 'model_state': state.model_state}
  wanted = {
    (part, PLAYER, 'backbone', *path)
    for part, trees in own.items()
    for path in flax.traverse_util.flatten_dict(trees[TEACHER])
  }
  with checkpoint.open_checkpoints(folder, keep_best) as checkpoints:
    step = checkpoint.reported_step(checkpoints, keep_best)
    if step is None:
      raise ValueError(
        f'teacher: {folder} has no checkpoint; train there first'
      )
    place = jax.tree.leaves(state.params)[0].sharding
    read = checkpoint.restore_part(checkpoints, step, wanted, place)
  filled = {
    part: {**trees, TEACHER: read[part][PLAYER]['backbone']}
    for part, trees in own.items()
  }
  if _shapes(filled) != _shapes(own):
    raise ValueError(
      f'teacher: the network trained in {folder} has other shapes than '
      'config.backbone; give the workdir of a teacher with this backbone'
    )
  return state.replace(**filled)


def _needs_teacher(
  config: ml_collections.ConfigDict, folder: pathlib.Path
) -> bool:
  return 'teacher' in config and _last_step(folder) is None


def _init(
  init: Callable[[], TrainState], folder: pathlib.Path, keep_best: bool
) -> TrainState:
  return fill(init(), folder, keep_best)


def _train_teacher(config: ml_collections.ConfigDict, folder: pathlib.Path):
  """Trains and evaluates it within its modality, unless that is done.

  RegDB and NPU-ReID have searches across modalities alone.
  """
  try:
    run = single.open_run(teacher_config(config), folder)
  except ValueError as error:
    raise RunError(f'teacher: {error}') from error
  (modality,) = run.config.method.modalities
  within = [
    search
    for search in run.protocols
    if search.query_modality == search.gallery_modality == modality
  ]
  reported = not within or (folder / results.RESULTS).exists()
  if reported and _last_step(folder) == run.setup.total_steps:
    processes.say(f'the teacher in {folder} is finished')
    return
  processes.say(f'first stage: the teacher, in {folder}')
  single.train(run)
  if within:
    report = single.evaluate(run._replace(protocols=within))
    processes.say(report['table'])
  else:
    processes.say(
      f'{run.config.dataset.name} has no search within {modality} images: '
      'the teacher is not evaluated'
    )
  jax.clear_caches()  # the student has jitted functions of its own


def _check_given(config: ml_collections.ConfigDict):
  """Refuses a run that cannot be the teacher, before anything is trained."""
  folder = pathlib.Path(config.teacher).expanduser().absolute()
  saved = _read_config(folder)
  expected = teacher_config(config)
  for what, found, wanted in (
    ('dataset', *_both(saved, expected, _dataset)),
    ('image size', *_both(saved, expected, _image_size)),
    ('backbone', *_both(saved, expected, _backbone)),
    ('method', *_both(saved, expected, _method)),
    ('validation identities', *_both(saved, expected, _held_out)),
  ):
    if found != wanted:
      raise ValueError(
        f'teacher: the run in {folder} has another {what}: {found}, where '
        f'this student needs {wanted}; give the workdir of such a run, or '
        'leave --config.teacher out to train one'
      )
  step = _last_step(folder)
  if step is None:
    raise ValueError(
      f'teacher: {folder} has no checkpoint; train there first, or leave '
      '--config.teacher out'
    )
  total = _total_steps(saved, config.dataset.data_dir)
  if step < total:
    raise ValueError(
      f'teacher: the run in {folder} is not finished (step {step} of {total}); '
      'go on with it first'
    )


def _read_config(folder: pathlib.Path) -> ml_collections.ConfigDict:
  try:
    return ml_collections.ConfigDict(json.loads((folder / CONFIG).read_text()))
  except (OSError, ValueError) as error:
    raise ValueError(
      f'teacher: {folder} holds no run ({CONFIG} cannot be read); give the '
      'workdir of a finished teacher, or leave --config.teacher out'
    ) from error


def _both(
  saved: Any, expected: Any, describe: Callable[[Any], str]
) -> tuple[str, str]:
  return describe(saved), describe(expected)


def _dataset(config: ml_collections.ConfigDict) -> str:
  return '/'.join(filter(None, (config.dataset.name, config.dataset.config)))


def _image_size(config: ml_collections.ConfigDict) -> str:
  return 'x'.join(str(n) for n in config.dataset.image_size)


def _backbone(config: ml_collections.ConfigDict) -> str:
  return ', '.join(
    f'{name}={value}'
    for name, value in sorted(config.backbone.to_dict().items())
    if name not in _SAME_NETWORK
  )


def _method(config: ml_collections.ConfigDict) -> str:
  modalities = config.method.get('modalities', ())
  return f'{config.method.name} on {"+".join(modalities)} images'


def _held_out(config: ml_collections.ConfigDict) -> str:
  """Whom a student is validated by, a teacher must not have seen."""
  count = config.dataset.validation_identities
  return f'{count} by seed {config.seed}' if count > 0 else str(count)


def _total_steps(config: ml_collections.ConfigDict, data_dir: str) -> int:
  config.dataset.data_dir = data_dir
  table = experiment.open_split(config, 'train')
  sampler = experiment.make_sampler(config, table)
  plan = optim.Schedule(**config.schedule.to_dict())
  return optim.total_steps(plan, sampler.steps_per_epoch)


def _last_step(folder: pathlib.Path) -> int | None:
  folder = folder.expanduser().absolute()
  if not (folder / 'checkpoints').is_dir():
    return None
  with checkpoint.open_checkpoints(folder) as checkpoints:
    return checkpoints.latest_step()


def _shapes(trees: Mapping[str, Any]) -> Any:
  return {
    part: jax.tree.map(lambda x: x.shape, tree[TEACHER])
    for part, tree in trees.items()
  }
