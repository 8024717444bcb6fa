"""Checkpoints of the training state, written in the background.

Synopsis:

  with open_checkpoints(workdir, keep_best=False) as checkpoints:
    state = restore(checkpoints, state, checkpoints.latest_step())
    save(checkpoints, state)

WORKDIR/checkpoints holds the latest step and, if the run has validation
identities, the best one by their mAP. A save that is cut off leaves the one
before it in place.

  python -m jaxreid.checkpoint slim WORKDIR

writes WORKDIR/slim without what training alone needs (`jaxreid.slim`).
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
  slim: Mapping[str, Any] | None = None,
):
  """Starts saving `state` under its own step; training may go on at once.

  Args:
    checkpoints: the manager.
    state: to be saved.
    metrics: what the checkpoint is judged by.
    trained_on: names of the dataset and its config, for `check_trained_on`.
    slim: marks a state without what training alone needs (`jaxreid.slim`).
  """
  notes: dict[str, Any] = {'trained_on': dict(trained_on or {})}
  tree: Any = state
  if slim is not None:
    notes['slim'] = dict(slim)
    tree = {
      'step': state.step,
      'params': state.params,
      'model_state': state.model_state,
    }
  checkpoints.save(
    int(state.step),
    args=ocp.args.StandardSave(tree),
    metrics=dict(metrics or {}),
    force=True,
    custom_metadata=notes,
  )


def restore(
  checkpoints: ocp.CheckpointManager, state: TrainState, step: int
) -> TrainState:
  """The checkpoint of `step`, with the shapes and shardings of `state`.

  Each leaf of `state` may be an array or a `jax.ShapeDtypeStruct`.

  Raises:
    ValueError: if the checkpoint holds another model, or a part of one.
  """
  if about(checkpoints, step).get('slim') is not None:
    raise ValueError(
      f'checkpoint {step} of {checkpoints.directory} holds only what the test '
      'needs, nothing to train with; train in the workdir that it was made '
      'from, or in a new one'
    )
  abstract = jax.tree.map(_shape, state)
  # Looked at first: a restore that fails half-way leaves its readers behind.
  other = _difference(checkpoints.item_metadata(step), abstract)
  if other:
    raise ValueError(
      f'checkpoint {step} of {checkpoints.directory} holds another model: '
      f'{other}; give another --workdir, or the code and data of that run'
    )
  return checkpoints.restore(step, args=ocp.args.StandardRestore(abstract))


def restore_part(
  checkpoints: ocp.CheckpointManager,
  step: int,
  wanted: set[tuple[str, ...]],
  place: jax.sharding.Sharding,
) -> dict[str, Any]:
  """Some arrays of a checkpoint; the others are not even read.

  Args:
    checkpoints: the manager.
    step: of the checkpoint.
    wanted: paths such as ('params', 'backbone', 'head', 'neck', 'scale').
    place: where the arrays go.

  Returns:
    A tree of dictionaries, like a `TrainState` that lacks the rest.

  Raises:
    ValueError: if one of them is not there, naming it.
  """
  there = saved_arrays(checkpoints, step)
  absent = sorted('.'.join(path) for path in wanted - there.keys())
  if absent:
    raise ValueError(
      f'checkpoint {step} of {checkpoints.directory} holds another model: '
      f'there is no {absent[0]}; give another --workdir, or the code of that '
      'run'
    )
  template = ocp.tree.from_flat_dict(
    {
      path: jax.ShapeDtypeStruct(
        there[path].shape, there[path].dtype, sharding=place
      )
      for path in wanted
    }
  )
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    return reader.restore(
      checkpoints.directory / str(step) / 'default',
      args=ocp.args.PyTreeRestore(
        template,
        restore_args=ocp.checkpoint_utils.construct_restore_args(template),
        partial_restore=True,
      ),
    )


def saved_arrays(
  checkpoints: ocp.CheckpointManager, step: int
) -> dict[tuple[str, ...], Any]:
  """Path -> shape and dtype of every array of a checkpoint."""
  saved = checkpoints.item_metadata(step).tree
  # Lists with gaps, as optax has them, cannot be written without their gaps.
  serial = ocp.tree.serialize_tree(saved, keep_empty_nodes=True)
  flat = ocp.tree.to_flat_dict(serial)
  return {path: x for path, x in flat.items() if hasattr(x, 'shape')}


def about(checkpoints: ocp.CheckpointManager, step: int) -> dict[str, Any]:
  """What `save` noted beside the arrays: 'trained_on', and 'slim' if it is."""
  return dict(checkpoints.metadata(step).custom_metadata or {})


def check_trained_on(
  checkpoints: ocp.CheckpointManager, step: int, dataset: Mapping[str, str]
):
  """Refuses a checkpoint of another dataset or split, such as RegDB's trials.

  A model tested on the people that it was trained on looks far too good.

  Raises:
    ValueError: naming both.
  """
  before = about(checkpoints, step).get('trained_on')
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


if __name__ == '__main__':
  from jaxreid import slim

  slim.main()
