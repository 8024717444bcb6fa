"""Results of searches, and the table that shows them.

Synopsis:

  result = summarize(protocol, rankings, test_distance='sum')
  print(format_table({protocol.name: result}))
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxreid.evaluation.protocols import Protocol
from jaxreid.evaluation.ranking import Ranking


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
    cmc: the whole curve, from rank 1 on; () in files of older versions.
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
  cmc: tuple[float, ...] = ()


def summarize(
  protocol: Protocol, rankings: Sequence[Ranking], test_distance: str
) -> Result:
  """The means over the trials of a protocol, in per cent."""
  cmc = 100 * np.array([ranking.cmc for ranking in rankings], np.float64)
  ap = 100 * np.array([ranking.mean_ap for ranking in rankings], np.float64)
  inp = 100 * np.array([ranking.mean_inp for ranking in rankings], np.float64)
  return Result(
    rank1=float(cmc[:, 0].mean()),
    rank5=float(cmc[:, 4].mean()),
    rank10=float(cmc[:, 9].mean()),
    rank20=float(cmc[:, 19].mean()),
    mAP=float(ap.mean()),
    mINP=float(inp.mean()),
    rank1_std=_deviation(cmc[:, 0]),
    mAP_std=_deviation(ap),
    trials=len(rankings),
    queries=int(rankings[0].queries),
    skipped=int(rankings[0].skipped),
    gallery=len(protocol.trials[0].gallery_rows),
    unique_identities=protocol.unique_identities,
    test_distance=test_distance,
    draw=protocol.draw,
    cmc=tuple(cmc.mean(axis=0).tolist()),
  )


def mean_of_splits(
  splits: Sequence[Mapping[str, Result]],
) -> dict[str, Result]:
  """Joins the results of several trained models, one per split of a dataset.

  RegDB's protocol: ten splits of its identities, a model for each.

  Args:
    splits: search -> result of each split; the same searches everywhere.

  Returns:
    search -> result, whose means and standard deviations are over the splits
    (each split's own mean counts once) and whose `trials` is their number.
  """
  joined = {}
  for name, first in splits[0].items():
    results = [split[name] for split in splits]
    mean = {
      field: float(np.mean([getattr(result, field) for result in results]))
      for field in ('rank1', 'rank5', 'rank10', 'rank20', 'mAP', 'mINP')
    }
    deviation = {
      f'{field}_std': _deviation([getattr(r, field) for r in results])
      for field in ('rank1', 'mAP')
    }
    curves = [result.cmc for result in results]
    values: dict[str, Any] = {**mean, **deviation, 'trials': len(splits)}
    values['cmc'] = (
      tuple(np.mean(curves, axis=0).tolist()) if all(curves) else ()
    )
    joined[name] = first._replace(**values)
  return joined


def _deviation(values: Sequence[float] | np.ndarray) -> float:
  """Of a sample, that is with n - 1; 0 for a single value."""
  return float(np.std(values, ddof=min(len(values) - 1, 1)))


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
