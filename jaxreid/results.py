"""What a trained state achieves, and the files that say so.

Synopsis:

  report = evaluate_test(config, setup, test, protocols, state)
  write(workdir, report)    # results.json and results.md
  print(report['table'])
"""

import functools
import itertools
import json
import pathlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

import jaxreid
from jaxreid import sharding
from jaxreid.data.source import INFRARED, VISIBLE, Records, Table
from jaxreid.evaluation import discrepancy, evaluate, protocols
from jaxreid.evaluation.evaluate import Embedded
from jaxreid.evaluation.protocols import Protocol
from jaxreid.experiment import Setup, held_out
from jaxreid.models.streams import count_parameters
from jaxreid.train_state import TrainState
from jaxreid.workdir import replace_text

MODALITIES = ('visible', 'infrared')
# Pixels of which modality a branch embeds.
PIXELS = {'visible': VISIBLE, 'infrared': INFRARED, 'gray': VISIBLE}


def evaluate_test(
  config: ml_collections.ConfigDict,
  setup: Setup,
  test: Table,
  searches: Sequence[Protocol],
  state: TrainState,
) -> dict[str, Any]:
  """Embeds every test image once per branch and runs the searches.

  Returns:
    A dictionary fit for JSON: 'results' (search -> metrics), 'domain_shift'
    (squared maximum mean discrepancy of each pair of modalities),
    'parameters_at_test', 'config', 'git_commit', 'dataset_fingerprint',
    'jaxreid' (version) and 'table' (Markdown).
  """
  rows = np.arange(len(test.images))
  embedded = _embed(config, setup, test, rows, tuple(PIXELS), state)
  found = evaluate.evaluate(embedded, searches, config.evaluation.test_distance)
  return {
    'results': {name: result._asdict() for name, result in found.items()},
    'domain_shift': _domain_shift(embedded),
    'parameters_at_test': parameters_at_test(state),
    'test_feature': config.method.test_feature,
    'config': config.to_dict(),
    'seeds': {'training': config.seed, 'gallery': 'the number of the trial'},
    'git_commit': git_commit(),
    'dataset_fingerprint': test.fingerprint,
    'jaxreid': jaxreid.__version__,
    'table': evaluate.format_table(found),
  }


def evaluate_validation(
  config: ml_collections.ConfigDict, setup: Setup, state: TrainState
) -> dict[str, float]:
  """Rank-1 and mAP of the held-out identities, infrared->visible, in per cent.

  Single-shot all-search over the training split's images of identities that
  training never sees.
  """
  table = setup.train
  people = held_out(config, table.records)
  rows = np.flatnonzero(np.isin(table.records.identity, people))
  records = Records(*(labels[rows] for labels in table.records))
  search = protocols.sysu(records, search='all', shots=1)
  embedded = _embed(
    config, setup, table._replace(records=records), rows, MODALITIES, state
  )
  (result,) = evaluate.evaluate(
    embedded, [search], config.evaluation.test_distance
  ).values()
  return {'validation_rank1': result.rank1, 'validation_mAP': result.mAP}


def write(workdir: pathlib.Path, report: dict[str, Any]):
  """Writes results.json and results.md into the workdir."""
  data = {name: value for name, value in report.items() if name != 'table'}
  text = json.dumps(data, indent=2, sort_keys=True) + '\n'
  replace_text(workdir / 'results.md', _markdown(report))
  # Last: where it is, the run is done.
  replace_text(workdir / 'results.json', text)


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


def parameters_at_test(state: TrainState) -> int:
  """Parameters that embed visible and infrared images.

  All of the network's but the classifier and the private stages of the
  'intermediate' stream, which training alone uses.
  """
  leaves = jax.tree_util.tree_leaves_with_path(state.params)
  return count_parameters(
    [
      leaf
      for path, leaf in leaves
      if not any(
        name in jax.tree_util.keystr(path)
        for name in ('intermediate_', 'classifier')
      )
    ]
  )


def _embed(
  config: ml_collections.ConfigDict,
  setup: Setup,
  table: Table,
  rows: np.ndarray,
  branches: Sequence[str],
  state: TrainState,
) -> dict[str, Embedded]:
  """Embeds rows[i], whose labels are table.records[i], by each branch."""
  embedded = {}
  devices = setup.mesh.size
  for branch in branches:
    mine = np.flatnonzero(table.records.modality == PIXELS[branch])
    embed = jax.tree_util.Partial(
      _embed_branch(setup.method.embed, branch), state.variables
    )
    features = evaluate.embed_all(
      embed,
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
def _embed_branch(embed: Callable, branch: str) -> Callable:
  """One function per method and branch, so that it compiles once per run."""
  return lambda variables, images: embed(variables, images, branch)


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


def _markdown(report: Mapping[str, Any]) -> str:
  config = report['config']
  shift = ', '.join(
    f'{pair} {value:.3f}' for pair, value in report['domain_shift'].items()
  )
  return f"""# {config['method']['name']} on {config['dataset']['name']}

{report['table']}

* seed: {config['seed']}
* parameters used at test: {report['parameters_at_test']:,}
* domain shift (squared maximum mean discrepancy; gray is the fixed gray of
  visible): {shift}
* dataset fingerprint: {report['dataset_fingerprint']}
* commit that evaluated: {report['git_commit']}; jaxreid {report['jaxreid']}

```json
{json.dumps(config, indent=2, sort_keys=True)}
```
"""
