"""Sections of a report from what was measured: curves, gaps, maps and lists.

Synopsis:

  cmc(run), distances(run), feature_map(run), lists(run)      # HTML
"""

import math
from collections.abc import Mapping
from typing import Any

from jaxreid.reports import data, figures, markup
from jaxreid.reports.files import RunFiles

_SHAPES = {'visible': 0, 'infrared': 1}


def ordered(results: Mapping[str, Any]) -> dict[str, Any]:
  """The searches across modalities first: JSON files sort by name."""

  def within(name: str) -> bool:
    query, _, gallery = name.split(',')[0].partition('->')
    return query == gallery or 'gray' in name

  return dict(
    sorted(
      results.items(),
      key=lambda item: (
        within(item[0]),
        # The sum over embeddings is a method's own test.
        'first of' in item[0],
        'multi' in item[0],
        'indoor' in item[0] or 'outdoor' in item[0],
      ),
    )
  )


def fingerprint(results: Mapping[str, Any]) -> str:
  """That of the pixels; several, where a run has several trials."""
  found = results.get('dataset_fingerprint') or '-'
  return found if isinstance(found, str) else ', '.join(found)


def cmc(run: RunFiles) -> str:
  """The curves of the first searches, over ranks 1 to 20."""
  results = ordered(run.results.get('results') or {})
  curves = {
    name: [(float(rank), share) for rank, share in enumerate(r['cmc'], 1)]
    for name, r in results.items()
    if r.get('cmc')
  }
  if not curves:
    return markup.missing(f'The results hold no CMC curves; {markup.RERUN}.')
  shown = dict(list(curves.items())[:8])
  legend = ''.join(
    f'<li><i class="c{i}"></i>{markup.text(name)}</li>'
    for i, name in enumerate(shown)
  )
  drawn = figures.lines(shown, 'rank', 280, high=100.0, width=figures.WIDE)
  caption = 'per cent of queries with a match up to this rank'
  figure = markup.figure(drawn, caption)
  return f'<div class="wide">{figure}<ul class="legend">{legend}</ul></div>'


def distances(run: RunFiles) -> str:
  """Histograms of positive and negative pairs."""
  found = run.data.get('distances')
  if not found:
    return markup.missing(f'There are no measured distances; {markup.RERUN}.')
  drawings = []
  for part in found:
    chance = f'{100 * part["nearer"]:.1f} %'
    place = ' Pairs of one camera.' if part['same_place'] else ''
    caption = (
      f'<b>{markup.text(part["pairs"])}</b>: mean '
      f'{part["mean_positive"]:.3f} for one person, '
      f'{part["mean_negative"]:.3f} for two; a pair of one is '
      f'nearer than a pair of two in {chance} of cases.{place}'
    )
    drawn = figures.bars(part['positive'], part['negative'], part['top'])
    drawings.append(markup.figure(drawn, caption))
  legend = (
    '<ul class="legend"><li><i class="c0"></i>the same person</li>'
    '<li><i class="c1"></i>different people</li></ul>'
  )
  return (
    '<p>Distances of test images of different cameras. The closer the two '
    'humps across modalities, the wider the gap between modalities.</p>'
    f'{legend}<div class="grid">{"".join(drawings)}</div>'
  )


def feature_map(run: RunFiles) -> str:
  """The same points twice: by modality and by person."""
  found = run.data.get('map')
  if not found:
    return markup.missing(f'There is no map of features; {markup.RERUN}.')
  sets, people = found['sets'], found['identities']
  # A modality looks the same in every report.
  shapes = [_SHAPES.get(name, 2) for name in sets]
  colored = data.COLORED
  titles = [f'person {people[p]}, {sets[s]}' for _, _, s, p in found['points']]
  by_set = [(x, y, shapes[s], shapes[s]) for x, y, s, _ in found['points']]
  by_person = [
    (x, y, shapes[s], p if p < colored else 8) for x, y, s, p in found['points']
  ]
  first, second = (
    f'{100 * share:.0f}\N{NO-BREAK SPACE}%' for share in found['explained']
  )
  marks = ''.join(
    f'<li>{figures.mark(shape, shape)}{markup.text(name)}</li>'
    for shape, name in zip(shapes, sets, strict=True)
  )
  colors = ''.join(
    f'<li><i class="c{i}"></i>{person}</li>'
    for i, person in enumerate(people[:colored])
  )
  return (
    '<p>Features of test images on their first two principal components, '
    f'which hold {first} and {second} of their variance. Two components show '
    'little of a feature: what is apart here is apart, what overlaps need '
    'not be near.</p><div class="grid two">'
    + markup.figure(
      figures.scatter(by_set, titles),
      f'by modality<ul class="legend">{marks}</ul>',
    )
    + markup.figure(
      figures.scatter(by_person, titles),
      f'by person<ul class="legend">{colors}</ul>',
    )
    + '</div>'
  )


def lists(run: RunFiles) -> str:
  """Ranked lists of random, best and worst queries."""
  lists = run.data.get('lists')
  if not lists:
    return markup.missing(f'There are no ranked lists; {markup.RERUN}.')
  text = (
    f'<p>{markup.text(run.data["search"])}, first trial. A green frame and '
    '✓: the same person; a red frame and ✗: somebody else. Below each picture '
    'its distance. Of the best and of the worst one query of each person.</p>'
  )
  for which, found in lists.items():
    text += f'<h3>{markup.text(which.capitalize())} queries</h3>'
    text += ''.join(map(_list, found)) or markup.missing('None.')
  return text


def _list(found: Mapping[str, Any]) -> str:
  query = found['query']
  ap = 100 * found['average_precision']
  items = (
    f'<li class="query"><img src="{query["image"]}" alt="query">'
    f'<span>AP {ap:.0f} %</span></li>'
  )
  farthest = max((p['distance'] for p in found['places']), default=0)
  # Three digits of what may be small: features need not have length 1.
  digits = max(2, 2 - math.floor(math.log10(farthest or 1)))
  for place in found['places']:
    kind, sign = ('right', '✓') if place['right'] else ('wrong', '✗')
    title = f'person {place["identity"]}, camera {place["camera"]}'
    items += (
      f'<li class="{kind}"><img src="{place["image"]}" alt="{title}" '
      f'title="{title}"><span>{sign} {place["distance"]:.{digits}f}</span></li>'
    )
  title = f'person {query["identity"]}, camera {query["camera"]}'
  return f'<h4>{title}</h4><ol class="list">{items}</ol>'
