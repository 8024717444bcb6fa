"""Rows of a table embedded by the branches of a method.

Synopsis:

  embedded = embed(config, setup, test, rows, BRANCHES, state)
  embedded['infrared'].features    # [N, M, D]

A branch is how `Method.embed` sees an image: as 'visible', 'infrared' or
'gray' (the gray version of a visible image).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jaxtyping import Array

from jaxreid import sharding
from jaxreid.data.source import INFRARED, VISIBLE, Table
from jaxreid.evaluation import embedding
from jaxreid.evaluation.embedding import Embedded
from jaxreid.experiment import Setup
from jaxreid.train_state import TrainState

MODALITIES = ('visible', 'infrared')
# Pixels of which modality a branch embeds.
PIXELS = {'visible': VISIBLE, 'infrared': INFRARED, 'gray': VISIBLE}
BRANCHES = tuple(PIXELS)


def embed(
  config: ml_collections.ConfigDict,
  setup: Setup,
  table: Table,
  rows: np.ndarray,
  branches: Sequence[str],
  state: TrainState,
) -> dict[str, Embedded]:
  """Embeds rows[i], whose labels are table.records[i], by each branch.

  Args:
    config: of the run.
    setup: of the run.
    table: its images are indexed by `rows`, its records by position in `rows`.
    rows: of the images.
    branches: of `BRANCHES`.
    state: trained.

  Returns:
    branch -> the positions in `rows` of its images, and their vectors.
  """
  embedded = {}
  devices = setup.mesh.size
  for branch in branches:
    mine = np.flatnonzero(table.records.modality == PIXELS[branch])
    function = jax.tree_util.Partial(
      _embed_branch(setup.method.embed, branch, config.evaluation.flip),
      state.variables,
    )
    features = embedding.embed_all(
      function,
      table.images,
      # The next multiple that the devices can share; the last batch is padded
      # anyway.
      config.evaluation.batch_size + -config.evaluation.batch_size % devices,
      sharding.batch_sharding(setup.mesh),
      rows[mine],
      f'embed {branch}',
    )
    embedded[branch] = Embedded(mine, features)
  return embedded


@functools.cache
def _embed_branch(embed: Callable, branch: str, flip: bool) -> Callable:
  """One function per method and branch, so that it compiles once per run."""

  def plain(variables: Any, images: Array) -> Array:
    return embed(variables, images, branch)

  def flipped(variables: Any, images: Array) -> Array:
    both = embedding.flip_averaged(functools.partial(plain, variables))
    return both(images)

  return flipped if flip else plain
