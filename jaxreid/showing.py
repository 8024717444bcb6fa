"""What a finished run shows of itself: pictures, a report, a model card.

Synopsis:

  show(workdir, config, setup, test, protocols, state, embedded)
  show_joined(workdir)     # of a run of several trials

After the results are written. A fault here is a sentence, since nothing of it
is worth the loss of a run.
"""

import contextlib
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence

import jax
import ml_collections
import numpy as np

from jaxreid import pictures, ranked_lists
from jaxreid.data.source import Table
from jaxreid.evaluation.embedding import Embedded
from jaxreid.evaluation.protocols import Protocol
from jaxreid.evaluation.retrieval import find_lists
from jaxreid.experiment import Setup
from jaxreid.reports import closing
from jaxreid.train_state import TrainState


def show(
  workdir: pathlib.Path,
  config: ml_collections.ConfigDict,
  setup: Setup,
  test: Table,
  protocols: Sequence[Protocol],
  state: TrainState,
  embedded: Mapping[str, Embedded],
):
  """Writes WORKDIR/pictures, report.json, report.html and MODEL_CARD.md.

  Args:
    workdir: of the run, with its results.
    config: of the run.
    setup: of the run.
    test: the test table.
    protocols: the searches of the results.
    state: that was evaluated.
    embedded: branch -> test images.
  """
  with _no_loss('the pictures', workdir):
    drawn = pictures.draw(setup, state.variables, config.evaluation.batch_size)
    drawn |= _draw_lists(config, test, protocols, embedded)
    drawn |= pictures.draw_training(setup)
    pictures.write(workdir, int(state.step), drawn)
  with _no_loss('the report', workdir):
    closing.write(workdir, config, setup.train, test, protocols, embedded)


def show_joined(workdir: pathlib.Path):
  """Writes the report and the model card of several trials together."""
  with _no_loss('the report', workdir):
    closing.write_pages(workdir)


def _draw_lists(
  config: ml_collections.ConfigDict,
  test: Table,
  protocols: Sequence[Protocol],
  embedded: Mapping[str, Embedded],
) -> dict[str, np.ndarray]:
  """Figure 4 of the TS-GAN paper, of the first search in the table."""
  distance = config.evaluation.test_distance
  for search in protocols:
    if {search.query_modality, search.gallery_modality} <= embedded.keys():
      lists = find_lists(embedded, search, distance, seed=config.seed)
      if not lists:  # no query has a match that it may be compared with
        return {}
      drawn = ranked_lists.draw(lists, test.images, search.name)
      return {'ranked_lists': drawn}
  return {}


@contextlib.contextmanager
def _no_loss(what: str, workdir: pathlib.Path) -> Iterator[None]:
  """Turns a fault into a sentence; one among many processes stays one."""
  try:
    yield
  except Exception as error:
    if jax.process_count() > 1 and isinstance(
      error, jax.errors.JaxRuntimeError
    ):
      raise
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
      place = place.tb_next
    where = ''
    if place is not None:
      file = pathlib.Path(place.tb_frame.f_code.co_filename).name
      where = f', {file}:{place.tb_lineno}'
    print(
      f'warning: {what} of {workdir} could not be made '
      f'({type(error).__name__}: {error}{where}); its results are there, in '
      'results.json, and python -m jaxreid.main --mode=evaluate tries again',
      file=sys.stderr,
    )
