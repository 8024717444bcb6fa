"""What a trained state achieves, and the files that say so.

Synopsis:

  embedded = embed_test(config, setup, test, state)
  report = evaluate_test(config, setup, test, protocols, state, embedded)
  write(workdir, report)    # results.json and results.md
  print(report['table'])
"""

import functools
import itertools
import json
import pathlib
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

import jaxreid
from jaxreid import branches
from jaxreid.data.source import Records, Table
from jaxreid.evaluation import discrepancy, evaluate, protocols
from jaxreid.evaluation.embedding import Embedded
from jaxreid.evaluation.protocols import Protocol
from jaxreid.evaluation.table import Result, format_table
from jaxreid.experiment import Setup, held_out
from jaxreid.method import Method, Variables
from jaxreid.models.streams import count_parameters
from jaxreid.needed import needed_to_embed
from jaxreid.train_state import TrainState
from jaxreid.workdir import replace_text

RESULTS = 'results.json'


def searches(config: ml_collections.ConfigDict, test: Table) -> list[Protocol]:
  """The searches of the dataset's results table.

  Raises:
    ValueError: if the test images do not fit the protocol, or the published
      galleries are asked for and not there.
  """
  permutations = test.permutations
  layout = config.dataset.layout
  if config.evaluation.gallery == 'official' and layout != 'sysu_mm01':
    raise ValueError(
      f"evaluation.gallery='official' is for SYSU-MM01: {layout} has no "
      "published galleries; use 'auto'"
    )
  if config.evaluation.gallery == 'official' and permutations is None:
    raise ValueError(
      "evaluation.gallery='official' needs rand_perm_cam.mat, which the "
      f'prepared {config.dataset.name} does not have; put it into the folder '
      'exp of the raw dataset and run python -m tfds_builders.prepare again'
    )
  if config.evaluation.gallery == 'random':
    permutations = None
  return protocols.standard_protocols(
    test.records, layout, permutations=permutations
  )


def check_rerank(config: ml_collections.ConfigDict, setup: Setup):
  """Refuses to re-rank sums of distances, before hours are spent.

  Raises:
    ValueError: if an image has several embeddings, all to be compared.
  """
  if not (
    config.evaluation.rerank and config.evaluation.test_distance == 'sum'
  ):
    return
  shape = (1, *config.dataset.image_size, 3)
  embeddings = jax.eval_shape(
    lambda variables, images: setup.method.embed(variables, images, 'visible'),
    setup.shapes().variables,
    jax.ShapeDtypeStruct(shape, np.uint8),
  )
  if embeddings.shape[1] > 1:
    raise ValueError(
      'evaluation.rerank compares images by one embedding each, and '
      f'{config.method.name} has {embeddings.shape[1]} of a visible image; '
      "set evaluation.test_distance='plain' with it"
    )


def embed_test(
  config: ml_collections.ConfigDict,
  setup: Setup,
  test: Table,
  state: TrainState,
  wanted: Sequence[str] = branches.BRANCHES,
) -> dict[str, Embedded]:
  """Embeds every test image once per branch."""
  rows = np.arange(len(test.images))
  return branches.embed(config, setup, test, rows, wanted, state)


def evaluate_test(
  config: ml_collections.ConfigDict,
  setup: Setup,
  test: Table,
  wanted: Sequence[Protocol],
  state: TrainState,
  embedded: Mapping[str, Embedded],
) -> dict[str, Any]:
  """Runs the searches on the embedded test images.

  Args:
    config: of the run.
    setup: of the run.
    test: the test table.
    wanted: the searches; those that need what is not embedded are left out.
    state: trained.
    embedded: as `embed_test` gives them.

  Returns:
    A dictionary fit for JSON: 'results' (search -> metrics), 'domain_shift'
    (squared maximum mean discrepancy of each pair of modalities),
    'parameters_at_test', 'facts' (the method's own sentences), 'config',
    'git_commit', 'dataset_fingerprint',
    'jaxreid' (version) and 'table' (Markdown).
  """
  possible = [
    search
    for search in wanted
    if {search.query_modality, search.gallery_modality} <= embedded.keys()
  ]
  found = _evaluate(config, embedded, possible, config.evaluation.rerank)
  size = tuple(config.dataset.image_size)
  return {
    'results': {name: result._asdict() for name, result in found.items()},
    'domain_shift': _domain_shift(embedded),
    'parameters_at_test': parameters_at_test(
      setup.method, state.variables, size
    ),
    'facts': _facts(config, setup, state),
    'test_feature': config.method.test_feature,
    'config': config.to_dict(),
    'seeds': {'training': config.seed, 'gallery': 'the number of the trial'},
    'git_commit': git_commit(),
    'dataset_fingerprint': test.fingerprint,
    'jaxreid': jaxreid.__version__,
    'table': format_table(found),
  }


def evaluate_validation(
  config: ml_collections.ConfigDict, setup: Setup, state: TrainState
) -> dict[str, float]:
  """Rank-1 and mAP of the held-out identities, infrared->visible, in per cent.

  Single-shot all-search (on RegDB: every image) over the training split's
  images of identities that training never sees.
  """
  table = setup.train
  people = held_out(config, table)
  rows = np.flatnonzero(np.isin(table.records.identity, people))
  records = Records(*(labels[rows] for labels in table.records))
  search = protocols.validation_protocol(records, config.dataset.layout)
  embedded = branches.embed(
    config,
    setup,
    table._replace(records=records),
    rows,
    branches.MODALITIES,
    state,
  )
  # By test_distance='both' there are two rows, and the first is of the sum.
  result, *_ = _evaluate(config, embedded, [search], rerank=False).values()
  return {'validation_rank1': result.rank1, 'validation_mAP': result.mAP}


def write(workdir: pathlib.Path, report: Mapping[str, Any]):
  """Writes results.json and results.md into the workdir."""
  _write(workdir, report, _markdown(report))


def write_joined(workdir: pathlib.Path, report: Mapping[str, Any]):
  """The same for the mean of several splits."""
  text = f"""# {_title(report['config'])}

{report['table']}

The splits and their own results are in the folders beside this file.
"""
  _write(workdir, report, text)


def _write(workdir: pathlib.Path, report: Mapping[str, Any], text: str):
  if jax.process_index():
    return
  data = {name: value for name, value in report.items() if name != 'table'}
  replace_text(workdir / 'results.md', text)
  # Last: where it is, the run is done.
  replace_text(
    workdir / RESULTS, json.dumps(data, indent=2, sort_keys=True) + '\n'
  )


def _title(config: Mapping[str, Any]) -> str:
  return f'{config["method"]["name"]} on {config["dataset"]["name"]}'


def git_commit() -> str | None:
  """The commit of this source tree, '+changes' if edited; None without git."""
  folder = pathlib.Path(__file__).parent
  git = functools.partial(
    subprocess.run, cwd=folder, capture_output=True, text=True, check=True
  )
  try:
    # Fails where the package merely lies inside somebody's repository.
    git(['git', 'ls-files', '--error-unmatch', pathlib.Path(__file__).name])
    commit = git(['git', 'rev-parse', 'HEAD']).stdout.strip()
    changes = git(['git', 'status', '--porcelain', '-uno', '.']).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return None
  return f'{commit}+changes' if changes else commit


def parameters_at_test(
  method: Method, variables: Variables, image_size: tuple[int, int]
) -> int:
  """Parameters that embed visible and infrared images.

  Found by tracing: all but those that training alone uses, such as the
  classifier, LUPI's Z stream and TS-GAN's generators.
  """
  used = needed_to_embed(method, variables, image_size, branches.MODALITIES)
  return count_parameters(
    [
      leaf
      for leaf, is_used in zip(
        jax.tree.leaves(variables['params']),
        jax.tree.leaves(used['params']),
        strict=True,
      )
      if is_used
    ]
  )


def _evaluate(
  config: ml_collections.ConfigDict,
  embedded: Mapping[str, Embedded],
  wanted: Sequence[Protocol],
  rerank: bool,
) -> dict[str, Result]:
  return evaluate.evaluate(
    embedded,
    wanted,
    config.evaluation.test_distance,
    config.evaluation.average_precision,
    rerank,
    ', flip-averaged' if config.evaluation.flip else '',
  )


def _domain_shift(embedded: Mapping[str, Embedded]) -> dict[str, float]:
  """Squared maximum mean discrepancy between V, I and the gray Z.

  Z is the fixed gray version of V, embedded as `Method.embed` does it. One
  length scale serves all pairs, so that they can be compared.
  """
  vectors = {m: e.features[:, 0] for m, e in embedded.items()}
  scale = discrepancy.median_squared_distance(*vectors.values())
  return {
    f'{a}-{b}': discrepancy.maximum_mean_discrepancy(
      vectors[a], vectors[b], scale
    )
    for a, b in itertools.combinations(vectors, 2)
  }


def _facts(
  config: ml_collections.ConfigDict, setup: Setup, state: TrainState
) -> list[str]:
  if setup.method.facts is None:
    return []
  return setup.method.facts(state.variables, tuple(config.dataset.image_size))


def _markdown(report: Mapping[str, Any]) -> str:
  config = report['config']
  facts = ''.join(f'* {fact}\n' for fact in report['facts'])
  shift = ', '.join(
    f'{pair} {value:.3f}' for pair, value in report['domain_shift'].items()
  )
  return f"""# {_title(config)}

{report['table']}

{facts}* seed: {config['seed']}
* parameters used at test: {report['parameters_at_test']:,}
* domain shift (squared maximum mean discrepancy; gray is the fixed gray of
  visible): {shift}
* dataset fingerprint: {report['dataset_fingerprint']}
* commit that evaluated: {report['git_commit']}; jaxreid {report['jaxreid']}

```json
{json.dumps(config, indent=2, sort_keys=True)}
```
"""
