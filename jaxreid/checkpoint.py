"""Checkpoints of the training state, written in the background.

Synopsis:

  with open_checkpoints(workdir, keep_best=False) as checkpoints:
    state = restore(checkpoints, state, checkpoints.latest_step())
    save(checkpoints, state)

WORKDIR/checkpoints holds the latest step and, if the run has validation
identities, the best one by their mAP. A save that is cut off leaves the one
before it in place.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from jaxreid.train_state import TrainState

BEST_METRIC = 'validation_mAP'


def open_checkpoints(
  workdir: str | pathlib.Path, keep_best: bool = False
) -> ocp.CheckpointManager:
  """The manager of WORKDIR/checkpoints; close it, or use it in a `with`.

  Args:
    workdir: of the run.
    keep_best: also keep the checkpoint of the highest validation mAP.
  """
  keep: list = [checkpoint_managers.LatestN(1)]
  if keep_best:
    keep.append(
      checkpoint_managers.BestN(
        get_metric_fn=_judge,
        reverse=False,
        n=1,
      )
    )
  options = ocp.CheckpointManagerOptions(
    preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep),
    best_fn=_judge if keep_best else None,
    best_mode='max',
    create=True,
  )
  return ocp.CheckpointManager(
    pathlib.Path(workdir).absolute() / 'checkpoints',
    options=options,
    item_handlers=ocp.StandardCheckpointHandler(),  # reads metadata unasked
  )


def save(
  checkpoints: ocp.CheckpointManager,
  state: TrainState,
  metrics: Mapping[str, float] | None = None,
  trained_on: Mapping[str, str] | None = None,
):
  """Starts saving `state` under its own step; training may go on at once.

  Args:
    checkpoints: the manager.
    state: to be saved.
    metrics: what the checkpoint is judged by.
    trained_on: names of the dataset and its config, for `check_trained_on`.
  """
  checkpoints.save(
    int(state.step),
    args=ocp.args.StandardSave(state),
    metrics=dict(metrics or {}),
    force=True,
    custom_metadata={'trained_on': dict(trained_on or {})},
  )


def restore(
  checkpoints: ocp.CheckpointManager, state: TrainState, step: int
) -> TrainState:
  """The checkpoint of `step`, with the shapes and shardings of `state`.

  `state` may hold arrays or `jax.ShapeDtypeStruct`s.

  Raises:
    ValueError: if the checkpoint holds another model.
  """
  abstract = jax.tree.map(_shape, state)
  # Looked at first: a restore that fails half-way leaves its readers behind.
  other = _difference(checkpoints.item_metadata(step), abstract)
  if other:
    raise ValueError(
      f'checkpoint {step} of {checkpoints.directory} holds another model: '
      f'{other}; give another --workdir, or the code and data of that run'
    )
  return checkpoints.restore(step, args=ocp.args.StandardRestore(abstract))


def check_trained_on(
  checkpoints: ocp.CheckpointManager, step: int, dataset: Mapping[str, str]
):
  """Refuses a checkpoint of another dataset or split, such as RegDB's trials.

  A model tested on the people that it was trained on looks far too good.

  Raises:
    ValueError: naming both.
  """
  about = checkpoints.metadata(step).custom_metadata or {}
  before = about.get('trained_on')
  if before and before != dict(dataset):
    raise ValueError(
      f'checkpoint {step} of {checkpoints.directory} was trained on '
      f'{_spell(before)}, not {_spell(dataset)}, whose test people it may have '
      'been trained on; train a model on each split, or on RegDB with '
      'trial=all'
    )


def _spell(dataset: Mapping[str, str]) -> str:
  return '/'.join(filter(None, (dataset['name'], dataset['config'])))


def _difference(saved: Any, wanted: TrainState) -> str | None:
  """The first array that a checkpoint has otherwise, in words."""
  theirs, ours = (
    ocp.tree.to_flat_dict(
      ocp.tree.serialize_tree(tree, keep_empty_nodes=True), sep='.'
    )
    for tree in (saved.tree, wanted)
  )
  for name in sorted(theirs.keys() | ours.keys()):
    if name not in theirs:
      return f'there is no {name}'
    if name not in ours:
      return f'{name} is not in this one'
    shapes = [getattr(tree[name], 'shape', None) for tree in (theirs, ours)]
    if shapes[0] != shapes[1]:
      return f'{name} has the shape {shapes[0]}, here {shapes[1]}'
  return None


def _judge(metrics: Mapping[str, float]) -> float:
  """A checkpoint that was not validated is never the best."""
  return metrics.get(BEST_METRIC, float('-inf'))


def _shape(array: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


def reported_step(
  checkpoints: ocp.CheckpointManager, keep_best: bool
) -> int | None:
  """The step to report: the best if that is kept, else the latest."""
  if keep_best:
    return checkpoints.best_step()
  return checkpoints.latest_step()
