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
from jaxtyping import Array

import jaxreid
from jaxreid import sharding
from jaxreid.data.source import INFRARED, VISIBLE, Records, Table
from jaxreid.evaluation import discrepancy, embedding, evaluate, protocols
from jaxreid.evaluation.embedding import Embedded
from jaxreid.evaluation.protocols import Protocol
from jaxreid.evaluation.table import Result, format_table
from jaxreid.experiment import Setup, held_out
from jaxreid.models.streams import count_parameters
from jaxreid.train_state import TrainState
from jaxreid.workdir import replace_text

RESULTS = 'results.json'
MODALITIES = ('visible', 'infrared')
# Pixels of which modality a branch embeds.
PIXELS = {'visible': VISIBLE, 'infrared': INFRARED, 'gray': VISIBLE}


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


def evaluate_test(
  config: ml_collections.ConfigDict,
  setup: Setup,
  test: Table,
  wanted: Sequence[Protocol],
  state: TrainState,
) -> dict[str, Any]:
  """Embeds every test image once per branch and runs the searches.

  Returns:
    A dictionary fit for JSON: 'results' (search -> metrics), 'domain_shift'
    (squared maximum mean discrepancy of each pair of modalities),
    'parameters_at_test', 'facts' (the method's own sentences), 'config',
    'git_commit', 'dataset_fingerprint',
    'jaxreid' (version) and 'table' (Markdown).
  """
  rows = np.arange(len(test.images))
  embedded = _embed(config, setup, test, rows, tuple(PIXELS), state)
  found = _evaluate(config, embedded, wanted, config.evaluation.rerank)
  return {
    'results': {name: result._asdict() for name, result in found.items()},
    'domain_shift': _domain_shift(embedded),
    'parameters_at_test': parameters_at_test(state),
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
  embedded = _embed(
    config, setup, table._replace(records=records), rows, MODALITIES, state
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
      _embed_branch(setup.method.embed, branch, config.evaluation.flip),
      state.variables,
    )
    features = embedding.embed_all(
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
def _embed_branch(embed: Callable, branch: str, flip: bool) -> Callable:
  """One function per method and branch, so that it compiles once per run."""

  def plain(variables: Any, images: Array) -> Array:
    return embed(variables, images, branch)

  def flipped(variables: Any, images: Array) -> Array:
    both = embedding.flip_averaged(functools.partial(plain, variables))
    return both(images)

  return flipped if flip else plain


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
