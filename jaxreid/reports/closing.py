"""What is written at the end of a run, beside its results.

Synopsis:

  write(workdir, config, train, test, protocols, embedded)
  # WORKDIR/report.json, report.html, MODEL_CARD.md
"""

import pathlib
from collections.abc import Mapping, Sequence

import jax
import ml_collections

from jaxreid.data.source import Table
from jaxreid.evaluation.embedding import Embedded
from jaxreid.evaluation.protocols import Protocol
from jaxreid.reports import data, model_card, page


def write(
  workdir: pathlib.Path,
  config: ml_collections.ConfigDict,
  train: Table,
  test: Table,
  protocols: Sequence[Protocol],
  embedded: Mapping[str, Embedded],
):
  """Writes the report and the model card, of embeddings that are there.

  Args:
    workdir: of the run, with its results.
    config: of the run.
    train: the training table.
    test: the test table.
    protocols: the searches of the results.
    embedded: branch -> test images.
  """
  # On one process, and of local arrays alone: no other has to wait.
  if jax.process_index():
    return
  collected = data.collect(config, train, test, protocols, embedded)
  data.write(workdir, collected)
  write_pages(workdir)


def write_pages(workdir: pathlib.Path):
  """The report and the card of whatever the folder holds."""
  if jax.process_index():
    return
  page.write(workdir)
  model_card.write(workdir)
