"""From images to a table of results: embed once, then index.

Synopsis:

  embed = jax.tree_util.Partial(embed_infrared, variables)
  features = embed_all(embed, images, 256, batch_sharding(mesh), rows=rows)
  embeddings = {'infrared': Embedded(rows, features), 'visible': ...}
  results = evaluate(embeddings, standard_protocols(records))
  print(format_table(results))
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jaxtyping import Array, Float, Int, UInt8

from jaxreid.distance import sum_over_modalities
from jaxreid.evaluation.protocols import Protocol, Trial
from jaxreid.evaluation.ranking import Ranking, rank

# Above so many entries (400 MB) a distance matrix is not kept for all trials.
_KEPT_ENTRIES = 10**8


class Embedded(NamedTuple):
  """Images embedded by one modality branch.

  Attributes:
    rows: [N] the rows of the records that were embedded.
    features: [N, M, D], M vectors for each of them.
  """

  rows: Int[np.ndarray, 'n']
  features: Float[np.ndarray, 'n m d']


class Result(NamedTuple):
  """What one search gave: means over trials, in per cent.

  Attributes:
    rank1: CMC at 1, and so on; NaN if no query has a comparable true match.
    rank5: see rank1.
    rank10: see rank1.
    rank20: see rank1.
    mAP: mean average precision.
    mINP: mean inverse negative penalty.
    rank1_std: standard deviation of rank1 over the trials (of a sample, that
      is with n - 1; 0 for a single trial).
    mAP_std: the same of mAP.
    trials: number of trials.
    queries: queries counted in a trial.
    skipped: queries left out of a trial for want of a true match.
    gallery: gallery images of a trial.
    unique_identities: whether CMC counts identities in place of images.
    test_distance: 'sum' or 'plain'.
    draw: how the galleries were drawn.
  """

  rank1: float
  rank5: float
  rank10: float
  rank20: float
  mAP: float  # noqa: N815 the field's own spelling
  mINP: float  # noqa: N815
  rank1_std: float
  mAP_std: float  # noqa: N815
  trials: int
  queries: int
  skipped: int
  gallery: int
  unique_identities: bool
  test_distance: str
  draw: str


def embed_all(
  embed: Callable[[Array], Array],
  images: UInt8[np.ndarray, 'n h w 3'],
  batch_size: int,
  sharding: jax.sharding.Sharding | None = None,
  rows: Int[np.ndarray, 'r'] | None = None,
  progress: bool | str = True,
) -> Float[np.ndarray, 'r m d']:
  """Embeds images in batches of one fixed size, so that one program serves.

  Args:
    embed: uint8 [B, H, W, 3] -> float [B, M, D], compiled here. Give
      parameters as `jax.tree_util.Partial(function, variables)`: they are then
      arguments of the compiled program, not constants in it, and a later call
      with the same function and other values does not compile again.
    images: the pixel table, in memory or memory-mapped.
    batch_size: images per batch; the last one is padded.
    sharding: how a batch is spread over devices; None for one device.
    rows: which images, in which order; None for all.
    progress: whether to show a progress bar; a string is its label.

  Returns:
    float32 [len(rows), M, D] on the host.

  Raises:
    ValueError: if there are no images, or if the batch cannot be spread evenly.
  """
  rows = np.arange(len(images)) if rows is None else np.asarray(rows)
  if not len(rows):
    raise ValueError('There are no images to embed.')
  if sharding is not None and batch_size % sharding.num_devices:
    raise ValueError(
      f'A batch of {batch_size} images cannot be spread evenly over '
      f'{sharding.num_devices} devices; choose a multiple.'
    )
  if not isinstance(embed, jax.tree_util.Partial):
    embed = jax.tree_util.Partial(embed)
  label = progress if isinstance(progress, str) else 'embed'
  features, pending = [], None
  with tqdm.tqdm(
    total=len(rows), desc=label, unit='image', disable=not progress
  ) as bar:
    for start in range(0, len(rows), batch_size):
      chosen = rows[start : start + batch_size]
      padded = np.resize(chosen, batch_size)
      batch = jax.device_put(np.asarray(images[padded]), sharding)
      # The device works on this batch while the host fetches the one before.
      pending, ready = _embed(embed, batch), pending
      if ready is not None:
        features.append(np.asarray(ready))
      bar.update(len(chosen))
    features.append(np.asarray(pending))
  return np.concatenate(features)[: len(rows)]


@jax.jit
def _embed(embed: Callable[[Array], Array], images: Array) -> Array:
  return embed(images).astype(jnp.float32)


def evaluate(
  embeddings: Mapping[str, Embedded],
  protocols: Iterable[Protocol],
  test_distance: str = 'sum',
) -> dict[str, Result]:
  """Runs protocols on embedded images.

  Args:
    embeddings: modality ('visible', 'infrared', 'gray') -> its images.
      'gray' holds visible rows, embedded as gray.
    protocols: the searches; those of equal modalities should be neighbours,
      since they share one distance matrix.
    test_distance: 'sum' over the embeddings of the two sides or 'plain', as
      in `jaxreid.distance.sum_over_modalities`.

  Returns:
    Name -> result, in the order of the protocols. Where an image has several
    embeddings the name also says which distance was used.

  Raises:
    ValueError: if a protocol needs images that are not embedded, or if an
      embedding is not finite.
  """
  for modality, embedded in embeddings.items():
    if not np.isfinite(embedded[1]).all():
      raise ValueError(
        f"The embeddings of the '{modality}' images hold NaN or infinite "
        'values: the model has diverged; evaluate an earlier checkpoint.'
      )
  results = {}
  pair, distance = None, None
  for protocol in protocols:
    query = _embedded(embeddings, protocol, protocol.query_modality)
    gallery = _embedded(embeddings, protocol, protocol.gallery_modality)
    if pair != (protocol.query_modality, protocol.gallery_modality):
      pair = (protocol.query_modality, protocol.gallery_modality)
      fits = len(query.rows) * len(gallery.rows) <= _KEPT_ENTRIES
      distance = _distance(query, gallery, test_distance) if fits else None
    rankings = [
      _rank_trial(protocol, trial, query, gallery, distance, test_distance)
      for trial in protocol.trials
    ]
    name = protocol.name
    if query.features.shape[1] * gallery.features.shape[1] > 1:
      how = 'sum over' if test_distance == 'sum' else 'first of'
      name = f'{name}, {how} modalities'
    results[name] = _summarize(protocol, rankings, test_distance)
  return results


def _embedded(
  embeddings: Mapping[str, Embedded], protocol: Protocol, modality: str
) -> Embedded:
  if modality not in embeddings:
    raise ValueError(
      f"'{protocol.name}' needs images embedded as '{modality}'; there are "
      f'{sorted(embeddings)}. Embed them or leave the protocol out.'
    )
  return Embedded(*embeddings[modality])


def _distance(
  query: Embedded, gallery: Embedded, test_distance: str
) -> Float[Array, 'q g']:
  return sum_over_modalities(
    jnp.asarray(query.features), jnp.asarray(gallery.features), test_distance
  )


def _rank_trial(
  protocol: Protocol,
  trial: Trial,
  query: Embedded,
  gallery: Embedded,
  distance: Float[Array, 'q g'] | None,
  test_distance: str,
) -> Ranking:
  queries = _positions(query.rows, trial.query_rows, protocol.name)
  drawn = _positions(gallery.rows, trial.gallery_rows, protocol.name)
  if distance is None:
    chosen = [
      Embedded(embedded.rows[index], embedded.features[index])
      for embedded, index in ((query, queries), (gallery, drawn))
    ]
    distance = _distance(chosen[0], chosen[1], test_distance)
  else:
    distance = jnp.take(distance, drawn, axis=1)
    if not np.array_equal(queries, np.arange(len(query.rows))):
      distance = jnp.take(distance, queries, axis=0)
  return rank(
    distance,
    trial.query_ids,
    trial.gallery_ids,
    trial.comparable,
    protocol.unique_identities,
  )


def _positions(
  rows: Int[np.ndarray, 'n'], wanted: Int[np.ndarray, 'w'], name: str
) -> Int[np.ndarray, 'w']:
  """Where the wanted rows stand among the embedded ones."""
  order = np.argsort(rows)
  place = np.searchsorted(rows, wanted, sorter=order)
  found = order[np.minimum(place, len(rows) - 1)]
  missing = np.flatnonzero(rows[found] != wanted)
  if len(missing):
    raise ValueError(
      f"'{name}' needs {len(missing)} images that are not embedded, the first "
      f'of them row {wanted[missing[0]]}.'
    )
  return found


def _summarize(
  protocol: Protocol, rankings: Sequence[Ranking], test_distance: str
) -> Result:
  cmc = 100 * np.array([ranking.cmc for ranking in rankings], np.float64)
  ap = 100 * np.array([ranking.mean_ap for ranking in rankings], np.float64)
  inp = 100 * np.array([ranking.mean_inp for ranking in rankings], np.float64)
  several = min(len(rankings) - 1, 1)
  return Result(
    rank1=float(cmc[:, 0].mean()),
    rank5=float(cmc[:, 4].mean()),
    rank10=float(cmc[:, 9].mean()),
    rank20=float(cmc[:, 19].mean()),
    mAP=float(ap.mean()),
    mINP=float(inp.mean()),
    rank1_std=float(cmc[:, 0].std(ddof=several)),
    mAP_std=float(ap.std(ddof=several)),
    trials=len(rankings),
    queries=int(rankings[0].queries),
    skipped=int(rankings[0].skipped),
    gallery=len(protocol.trials[0].gallery_rows),
    unique_identities=protocol.unique_identities,
    test_distance=test_distance,
    draw=protocol.draw,
  )


def format_table(results: Mapping[str, Result]) -> str:
  """Results as a Markdown table with aligned columns, for screen and file.

  Rank-1 and mAP stand with their standard deviation over the trials. Lines
  below the table name how the galleries were drawn and what CMC counts.
  """
  header = ['search', 'rank-1', 'rank-5', 'rank-10', 'rank-20', 'mAP', 'mINP']
  header += ['trials', 'queries', 'left out', 'gallery']
  lines = [header] + [
    [
      name,
      f'{r.rank1:.2f} ± {r.rank1_std:.2f}',
      *(f'{value:.2f}' for value in (r.rank5, r.rank10, r.rank20)),
      f'{r.mAP:.2f} ± {r.mAP_std:.2f}',
      f'{r.mINP:.2f}',
      *(str(value) for value in (r.trials, r.queries, r.skipped, r.gallery)),
    ]
    for name, r in results.items()
  ]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  table = [_line(cells, widths) for cells in lines]
  rule = ['-' * widths[0], *('-' * (width - 1) + ':' for width in widths[1:])]
  table.insert(1, '| ' + ' | '.join(rule) + ' |')
  draws = dict.fromkeys(result.draw for result in results.values())
  units = dict.fromkeys(
    'identities' if result.unique_identities else 'images'
    for result in results.values()
  )
  table += [
    '',
    'Per cent, mean ± standard deviation over the trials. Galleries '
    f'{"; ".join(draws)}. CMC counts {" or ".join(units)}.',
  ]
  return '\n'.join(table)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
  first = cells[0].ljust(widths[0])
  rest = [c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)]
  return '| ' + ' | '.join([first, *rest]) + ' |'
