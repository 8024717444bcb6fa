"""From embeddings to results: embed once, then index.

Synopsis:

  embeddings = {'infrared': Embedded(rows, features), 'visible': ...}
  results = evaluate(embeddings, standard_protocols(records))
  print(format_table(results))
"""

import concurrent.futures
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import tqdm
from jaxtyping import Array, Float, Int

from jaxreid.distance import pairwise_euclidean, sum_over_modalities
from jaxreid.evaluation.embedding import Embedded
from jaxreid.evaluation.protocols import Protocol, Trial
from jaxreid.evaluation.ranking import Ranking, rank
from jaxreid.evaluation.rerank import k_reciprocal_from_distance
from jaxreid.evaluation.table import Result, summarize

# Above so many entries (400 MB) a distance matrix is not kept for all trials.
_KEPT_ENTRIES = 10**8
# On a CPU the ranking of one trial keeps hardly more than one core busy.
_TRIALS_AT_ONCE = 2


def evaluate(
  embeddings: Mapping[str, Embedded],
  protocols: Iterable[Protocol],
  test_distance: str = 'sum',
  average_precision: str = 'hits',
  rerank: bool = False,
  suffix: str = '',
) -> dict[str, Result]:
  """Runs protocols on embedded images.

  Args:
    embeddings: modality ('visible', 'infrared', 'gray') -> its images.
      'gray' holds visible rows, embedded as gray.
    protocols: the searches; those of equal modalities should be neighbours,
      since they share one distance matrix.
    test_distance: 'sum' over the embeddings of the two sides or 'plain', as
      in `jaxreid.distance.sum_over_modalities`; 'both' for two results of
      every search in which an image has several embeddings.
    average_precision: 'hits' or 'trapezoid', as in `ranking.rank`.
    rerank: whether searches across modalities are also reported after
      k-reciprocal re-ranking, in rows of their own (with 'both', of the plain
      distance alone).
    suffix: what else belongs to the names, such as ', flip-averaged'.

  Returns:
    Name -> result, in the order of the protocols. Whatever sets a result
    apart stands in its name: several embeddings of an image and how they were
    compared, re-ranking, the trapezoid rule, `suffix`.

  Raises:
    ValueError: if a protocol needs images that are not embedded, if an
      embedding is not finite, or if sums of distances are to be re-ranked.
  """
  if test_distance == 'both':
    # Of one embedding each, both are the same search by the same name.
    protocols = list(protocols)
    summed, plain = (
      evaluate(embeddings, protocols, kind, average_precision, again, suffix)
      for kind, again in (('sum', False), ('plain', rerank))
    )
    return summed | plain
  for modality, embedded in embeddings.items():
    if not np.isfinite(embedded[1]).all():
      raise ValueError(
        f"The embeddings of the '{modality}' images hold NaN or infinite "
        'values: the model has diverged; evaluate an earlier checkpoint.'
      )
  results = {}
  pair, distance = ('', ''), None
  for protocol in protocols:
    query = _embedded(embeddings, protocol, protocol.query_modality)
    gallery = _embedded(embeddings, protocol, protocol.gallery_modality)
    if pair != (protocol.query_modality, protocol.gallery_modality):
      pair = (protocol.query_modality, protocol.gallery_modality)
      fits = len(query.rows) * len(gallery.rows) <= _KEPT_ENTRIES
      distance = _distance(query, gallery, test_distance) if fits else None
    options = _Options(test_distance, average_precision)
    name = protocol.name + _several(query, gallery, test_distance)
    name += ', trapezoid AP' if average_precision == 'trapezoid' else ''
    rankings = _rank_trials(protocol, query, gallery, distance, options)
    results[name + suffix] = summarize(protocol, rankings, test_distance)
    if rerank and 'gray' not in pair and pair[0] != pair[1]:
      rankings = _rerank_trials(protocol, query, gallery, options)
      results[f'{name}{suffix}, re-ranked'] = summarize(
        protocol, rankings, test_distance
      )
  return results


class _Options(NamedTuple):
  """How embeddings are compared and lists judged."""

  test_distance: str
  average_precision: str


def _several(query: Embedded, gallery: Embedded, test_distance: str) -> str:
  """What a name says where an image has several embeddings."""
  if query.features.shape[1] * gallery.features.shape[1] == 1:
    return ''
  how = 'sum over' if test_distance == 'sum' else 'first of'
  return f', {how} modalities'


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


def _rank_trials(
  protocol: Protocol,
  query: Embedded,
  gallery: Embedded,
  distance: Float[Array, 'q g'] | None,
  options: _Options,
) -> list[Ranking]:
  def judge(trial: Trial) -> Ranking:
    return _rank_trial(protocol, trial, query, gallery, distance, options)

  # The first trial compiles what the others use.
  rankings = [judge(trial) for trial in protocol.trials[:1]]
  with concurrent.futures.ThreadPoolExecutor(_TRIALS_AT_ONCE) as pool:
    return rankings + list(pool.map(judge, protocol.trials[1:]))


def _rank_trial(
  protocol: Protocol,
  trial: Trial,
  query: Embedded,
  gallery: Embedded,
  distance: Float[Array, 'q g'] | None,
  options: _Options,
) -> Ranking:
  queries = _positions(query.rows, trial.query_rows, protocol.name)
  drawn = _positions(gallery.rows, trial.gallery_rows, protocol.name)
  if distance is None:
    distance = _distance(
      _choose(query, queries), _choose(gallery, drawn), options.test_distance
    )
  else:
    distance = jnp.take(distance, drawn, axis=1)
    if not np.array_equal(queries, np.arange(len(query.rows))):
      distance = jnp.take(distance, queries, axis=0)
  return _judge(protocol, trial, distance, options)


def _rerank_trials(
  protocol: Protocol, query: Embedded, gallery: Embedded, options: _Options
) -> list[Ranking]:
  """Every trial ranked by its k-reciprocal distance.

  Re-ranking sees the whole gallery; what is not comparable is left out of the
  ranked lists alone.
  """
  if options.test_distance == 'plain':
    query, gallery = (
      Embedded(side.rows, side.features[:, :1]) for side in (query, gallery)
    )
  rankings, among_queries = [], None
  for trial in tqdm.tqdm(protocol.trials, f're-rank {protocol.name}'):
    queries = _choose(
      query, _positions(query.rows, trial.query_rows, protocol.name)
    )
    drawn = _choose(
      gallery, _positions(gallery.rows, trial.gallery_rows, protocol.name)
    )
    if among_queries is None:  # the queries of a protocol are always the same
      among_queries = pairwise_euclidean(*2 * (_only(queries),))
    distance = k_reciprocal_from_distance(
      among_queries,
      pairwise_euclidean(_only(queries), _only(drawn)),
      pairwise_euclidean(*2 * (_only(drawn),)),
    )
    rankings.append(_judge(protocol, trial, distance, options))
  return rankings


def _choose(embedded: Embedded, index: Int[np.ndarray, 'i']) -> Embedded:
  return Embedded(embedded.rows[index], embedded.features[index])


def _only(embedded: Embedded) -> Float[Array, 'n d']:
  if embedded.features.shape[1] > 1:
    raise ValueError(
      'Re-ranking compares images by one embedding, and these have '
      f"{embedded.features.shape[1]}; use evaluation.test_distance='plain' "
      'with it.'
    )
  return jnp.asarray(embedded.features[:, 0])


def _judge(
  protocol: Protocol,
  trial: Trial,
  distance: Float[Array, 'q g'],
  options: _Options,
) -> Ranking:
  return rank(
    distance,
    trial.query_ids,
    trial.gallery_ids,
    trial.comparable,
    protocol.unique_identities,
    average_precision=options.average_precision,
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
