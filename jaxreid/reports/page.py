"""The report of a run as one HTML page: no server, no scripts, no other files.

Synopsis:

  write(workdir)                 # WORKDIR/report.html
  page = make_page(read_run(workdir))

Whatever a workdir lacks (those of older versions, or of a run that was not
evaluated) is a sentence on the page, never an error.
"""

import json
import pathlib

from jaxreid.reports import figures, markup, measured
from jaxreid.reports.files import RunFiles, read_run
from jaxreid.workdir import replace_text

FILE = 'report.html'


def write(workdir: pathlib.Path, out: pathlib.Path | None = None):
  """Writes the page to `out`, by default WORKDIR/report.html.

  Raises:
    ValueError: if the folder holds no run.
  """
  page = make_page(read_run(workdir))
  replace_text(out or workdir / FILE, page)


def make_page(run: RunFiles) -> str:
  """The page."""
  config = run.config
  title = f'{config["method"]["name"]} on {config["dataset"]["name"]}'
  sections = {
    'Results': _results(run),
    'Curves': _curves(run),
    'CMC': measured.cmc(run),
    'Distances': measured.distances(run),
    'Map': measured.feature_map(run),
    'Ranked lists': measured.lists(run),
    'Pictures': _pictures(run),
    'Data': _counts(run),
    'Config': _config(run),
  }
  links = ''.join(f'<a href="#{_anchor(name)}">{name}</a>' for name in sections)
  body = ''.join(
    f'<section id="{_anchor(name)}"><h2>{name}</h2>{content}</section>'
    for name, content in sections.items()
  )
  return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{markup.text(title)}</title>
<style>{markup.STYLE}</style>
</head>
<body>
<header><h1>{markup.text(title)}</h1><p class="sub">{markup.text(run.name)}</p>
{_facts(run)}</header>
<nav aria-label="Sections">{links}</nav>
<main>{body}</main>
</body>
</html>
"""


def _anchor(name: str) -> str:
  return name.lower().replace(' ', '-')


def _facts(run: RunFiles) -> str:
  """The first search's figures and what was run, as a row of tiles."""
  facts = []
  if run.results.get('results'):
    name, first = next(iter(measured.ordered(run.results['results']).items()))
    facts += [
      (f'{first["rank1"]:.1f} %', f'rank-1, {name}'),
      (f'{first["mAP"]:.1f} %', 'mAP, the same search'),
    ]
  if 'parameters_at_test' in run.results:
    count = run.results['parameters_at_test'] / 1e6
    facts.append((f'{count:.2f} M', 'parameters at test'))
  reached = int(max((p[-1][0] for p in run.metrics.values()), default=0))
  if reached:
    facts.append((f'{reached:,}', 'steps trained'))
  facts.append((str(run.config.get('seed', '-')), 'seed'))
  tiles = ''.join(
    f'<div><b>{markup.text(value)}</b><span>{markup.name(what)}</span></div>'
    for value, what in facts
  )
  return f'<div class="tiles">{tiles}</div>'


def _results(run: RunFiles) -> str:
  results = run.results.get('results')
  if not results:
    return markup.missing(
      'Not evaluated yet: python -m jaxreid.main --mode=evaluate'
    )
  head = ['search', 'rank-1', 'rank-5', 'rank-10', 'rank-20', 'mAP', 'mINP']
  head += ['trials', 'queries', 'gallery']
  rows = [
    [
      name,
      f'{r["rank1"]:.2f} ± {r["rank1_std"]:.2f}',
      *(f'{r[m]:.2f}' for m in ('rank5', 'rank10', 'rank20')),
      f'{r["mAP"]:.2f} ± {r["mAP_std"]:.2f}',
      f'{r["mINP"]:.2f}',
      *(f'{r[m]:,}' for m in ('trials', 'queries', 'gallery')),
    ]
    for name, r in measured.ordered(results).items()
  ]
  draws = dict.fromkeys(r['draw'] for r in results.values())
  notes = [
    'Per cent, mean ± standard deviation over the trials. Galleries '
    f'{"; ".join(draws)}.',
    *run.results.get('facts', ()),
  ]
  if run.results.get('domain_shift'):
    shifts = ', '.join(
      f'{pair} {value:.3f}'
      for pair, value in run.results['domain_shift'].items()
    )
    notes.append(f'Squared maximum mean discrepancy of features: {shifts}.')
  notes.append(
    f'{_evaluated(run)}; commit {run.results.get("git_commit") or "unknown"}; '
    f'jaxreid {run.results.get("jaxreid", "-")}; dataset fingerprint '
    f'{measured.fingerprint(run.results)}.'
  )
  told = ''.join(f'<li>{markup.text(note)}</li>' for note in notes)
  return f'{markup.table(head, rows)}<ul class="notes">{told}</ul>'


def _evaluated(run: RunFiles) -> str:
  """Which network the results are of."""
  if run.results.get('trials'):
    return f'Mean of {len(run.results["trials"])} splits, a network for each'
  if run.results.get('checkpoint'):
    return f'Checkpoint of step {run.results["checkpoint"]["step"]}'
  file = (run.results.get('weights') or {}).get('file', 'an unknown file')
  return f'Weights of {file}, as released'


def _curves(run: RunFiles) -> str:
  if not run.metrics:
    return markup.missing(
      'There is no metrics.jsonl: nothing was trained here.'
    )
  names = sorted(
    run.metrics, key=lambda name: ('loss' not in name, name != 'loss', name)
  )
  drawings = []
  for name in names:
    points = run.metrics[name]
    last = points[-1][1]
    drawings.append(
      markup.figure(
        figures.lines({name: points}, 'step', 150),
        f'<b>{markup.text(name.replace("_", " "))}</b>, last {last:.4g}',
      )
    )
  return f'<div class="grid">{"".join(drawings)}</div>'


_CAPTIONS = {  # in their order on the page
  'training': 'Training images as the network gets them: cropped, flipped, '
  'erased, exchanged or made gray, as the method has it.',
  'examples': 'Training images, and what the method makes of them.',
  'channels': 'Mean of the channels of each visible training image, and of '
  'what the method makes of it.',
}


def _pictures(run: RunFiles) -> str:
  if not run.pictures:
    return markup.missing(
      f'There are no pictures of the method; {markup.RERUN}.'
    )
  known = [name for name in _CAPTIONS if name in run.pictures]
  return ''.join(
    markup.figure(
      '<div class="scroll" tabindex="0"><img class="picture" src="'
      f'{run.pictures[name]}" alt="{markup.text(name)}"></div>',
      markup.text(_CAPTIONS.get(name, name)),
    )
    for name in dict.fromkeys([*known, *run.pictures])
  )


def _counts(run: RunFiles) -> str:
  counts = run.data.get('counts')
  if not counts:
    return markup.missing(f'The images were not counted; {markup.RERUN}.')
  rows = []
  for split, cameras in counts.items():
    for camera in cameras:
      rows.append(
        [
          f'{split}, camera {camera["camera"]}',
          camera['modality'],
          f'{camera["images"]:,}',
          f'{len(camera["identities"]):,}',
        ]
      )
    people = {p for camera in cameras for p in camera['identities']}
    images = sum(camera['images'] for camera in cameras)
    rows.append([f'{split}, all', '', f'{images:,}', f'{len(people):,}'])
  return markup.table(['images of', 'modality', 'images', 'people'], rows)


def _config(run: RunFiles) -> str:
  text = json.dumps(run.config, indent=2, sort_keys=True)
  return (
    '<details><summary>All fields</summary>'
    f'<pre class="scroll" tabindex="0">{markup.text(text)}</pre></details>'
  )
