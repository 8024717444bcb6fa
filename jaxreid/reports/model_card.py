"""The model card of a run: what it is made from, for what, and for what not.

Synopsis:

  write(workdir)                 # WORKDIR/MODEL_CARD.md
  card = make_card(read_run(workdir))
"""

import pathlib
import textwrap
from typing import Any, NamedTuple

from jaxreid.reports import measured
from jaxreid.reports.files import RunFiles, read_run
from jaxreid.workdir import replace_text

FILE = 'MODEL_CARD.md'


class DataTerms(NamedTuple):
  """What is known of a dataset's terms.

  Attributes:
    what: one sentence on the images.
    terms: what its owners ask.
  """

  what: str
  terms: str


_AGREEMENT = (
  ' This project has not seen what the agreement says of trained networks: '
  'read yours before you pass this one on.'
)
_REAL = {
  'sysu_mm01': DataTerms(
    'SYSU-MM01: pictures of real people at a university, by four visible and '
    'two near-infrared cameras.',
    'Handed out by Sun Yat-sen University for academic research, on a signed '
    'agreement; the images are not public and must not be passed on.'
    + _AGREEMENT,
  ),
  'regdb': DataTerms(
    'RegDB: pictures of real people by a visible and a thermal camera.',
    'Handed out by Dongguk University for academic research, on a signed '
    'form; the images must not be passed on.' + _AGREEMENT,
  ),
  'npu_reid': DataTerms(
    'NPU-ReID: pictures of real people by four visible and four infrared '
    'cameras.',
    'For academic research only; its authors hand it out on request.'
    + _AGREEMENT,
  ),
}
_RENDERED = DataTerms(
  'synthetic_reid: rendered figures. Nobody real is shown.',
  'No licence is needed.',
)
_UNKNOWN = DataTerms(
  'A dataset that this project knows nothing of.',
  'Unknown: ask its owners, also what they allow for trained networks.',
)


def write(workdir: pathlib.Path):
  """Writes WORKDIR/MODEL_CARD.md.

  Raises:
    ValueError: if the folder holds no run.
  """
  replace_text(workdir / FILE, make_card(read_run(workdir)))


def make_card(run: RunFiles) -> str:
  """The card, in Markdown."""
  config = run.config
  dataset = config['dataset']['name']
  terms = _RENDERED if dataset == 'synthetic_reid' else _REAL.get(dataset)
  terms = terms or _UNKNOWN
  return f"""# Model card: {config['method']['name']} on {dataset}

A network that turns a picture of a person into a vector, so that visible and
infrared pictures of one person lie near each other.

## What it was made from

{_facts(run)}

## Data

{textwrap.fill(terms.what, 79)}

{textwrap.fill(terms.terms, 79)}

{_counts(run.data.get('counts') or {})}

## Intended use

Research on retrieval across visible and infrared pictures: to compare methods
by the protocol of this dataset.{_toy(dataset)}

## Limits

* It ranks pictures by likeness; it does not tell who somebody is, and the
  first place is often wrong (see the results).
* Measured on this dataset's cameras and people alone. Other cameras, light,
  clothes or groups of people may give much worse results; how results differ
  between groups of people was not measured.
* Pictures are expected to be cropped to one person and are resized to
  {_size(config)}.

## Results

{_results(run)}

## Privacy

Recognising people again in pictures is processing of personal data, in many
places of biometric data. It is regulated, in the European Union by the General
Data Protection Regulation and the Artificial Intelligence Act, and is forbidden
for some purposes. Who uses this network on pictures of real people needs a
lawful basis, and should not decide anything about a person by its output
alone. The terms of the data above may forbid any use but research.
"""


def _toy(dataset: str) -> str:
  if dataset != 'synthetic_reid':
    return ''
  return (
    ' Having seen rendered figures only,\nit is of no use on pictures of real '
    'people.'
  )


def _size(config: dict[str, Any]) -> str:
  height, width = config['dataset']['image_size']
  return f'{height} x {width} pixels'


def _facts(run: RunFiles) -> str:
  config, results = run.config, run.results
  backbone = config.get('backbone', {})
  weights = config.get('weights') or backbone.get('pretrained')
  weights = weights or (results.get('weights') or {}).get('file')
  step = (results.get('checkpoint') or {}).get('step')
  count = results.get('parameters_at_test')
  facts = {
    'method': config['method']['name'],
    'backbone': backbone.get('name', '-'),
    'started from': weights or 'random weights',
    'steps': '-' if step is None else f'{step:,}',
    'seed': config.get('seed', '-'),
    'parameters at test': '-' if count is None else f'{count:,}',
    'feature': results.get('test_feature', '-'),
    'software': f'jaxreid {results.get("jaxreid", "-")}, commit '
    f'{results.get("git_commit") or "unknown"}',
    'dataset fingerprint': measured.fingerprint(results),
  }
  if config['method']['name'] == 'tsgan':
    facts['teacher'] = config.get('teacher') or 'the run in the folder teacher'
  return '\n'.join(f'* {name}: {value}' for name, value in facts.items())


def _counts(counts: dict[str, Any]) -> str:
  lines = []
  for split, cameras in counts.items():
    people = {p for camera in cameras for p in camera['identities']}
    images = {
      kind: sum(c['images'] for c in cameras if c['modality'] == kind)
      for kind in ('visible', 'infrared')
    }
    lines.append(
      f'* {split}: {len(people):,} people, {images["visible"]:,} visible and '
      f'{images["infrared"]:,} infrared images of {len(cameras)} cameras'
    )
  return '\n'.join(lines) or 'The images were not counted.'


def _results(run: RunFiles) -> str:
  results = run.results.get('results')
  if not results:
    return 'Not evaluated yet.'
  lines = ['| search | rank-1 | mAP | mINP |', '| --- | ---: | ---: | ---: |']
  lines += [
    f'| {name} | {r["rank1"]:.2f} | {r["mAP"]:.2f} | {r["mINP"]:.2f} |'
    for name, r in measured.ordered(results).items()
  ]
  return '\n'.join(lines) + '\n\nPer cent; more in results.md and report.html.'
