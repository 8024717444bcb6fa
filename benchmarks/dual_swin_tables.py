"""Tables 2, 6 and 8 of the dual-path Swin paper, on the rendered set.

  python benchmarks/dual_swin_tables.py --out=/tmp/dual_swin_tables

trains every row with one shortened schedule a table (resumable: rows that
have their results are not run again, a killed one goes on), and prints the
tables as Markdown. Headline rows take three seeds, the others one.
"""

import argparse
import pathlib

import table_runs

HEADLINE = ('baseline', '')
OTHERS = ('mag', 'mmtn', 'mmtp', 'mmt', 'f1', 'f2', 'f4', 'f5')
SEARCHES = (
  'infrared->visible, all, single-shot',
  'infrared->visible, all, multi-shot',
)
# Ablation -> the paper's name. Its own figures are not in the text that we
# have; the text says which way they go.
TABLE_2 = {
  'baseline': 'B (identity loss alone)',
  'mag': 'B + MAG',
  'mmtn': 'B + MMTN',
  'mmtp': 'B + MMTP',
  'mmt': 'B + MMTN + MMTP',
  '': 'all',
}
TABLE_8 = {
  'f1': 'F1: the stem is private',
  'f2': 'F2: and stage 1',
  '': 'F3: and stage 2 (the paper)',
  'f4': 'F4: and stage 3',
  'f5': 'F5: and stage 4',
}
# Config -> name of the method.
TABLE_6 = {
  'baseline': 'AGW',
  'lupi': 'LUPI',
  'xiv': 'XIV',
}
MAG = '--config.plugins.exchange.probability=0.5'
MULTI_MASK = '--config.plugins.multi_mask.weight='
PLUGGED = {
  '': ('as it is', []),
  'both': ('+ MAG + MMT', [MAG, MULTI_MASK + '1.0']),
  # As the triplets of configs/lupi.py and configs/dual_swin.py on this set.
  'light': ('+ MAG + 0.1 MMT', [MAG, MULTI_MASK + '0.1']),
}
# Square, as the paper's images.
SQUARE = 'size=72x72'
NPU = '--config.dataset.layout=npu_reid'


def main():
  """Runs what is missing, then prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--epochs', type=float, default=9.0)
  parser.add_argument(
    '--plugged_epochs', type=float, default=2.4, help='of table 6'
  )
  parser.add_argument(
    '--parallel', type=int, default=1, help='runs at a time, one core each'
  )
  options = parser.parse_args()
  short = table_runs.short_schedule(options.epochs)
  rows = [_row(name, 0, short) for name in HEADLINE + OTHERS]
  rows += [_row(name, seed, short) for seed in (1, 2) for name in HEADLINE]
  rows += [
    table_runs.Row('square_0', f'configs/dual_swin.py:{SQUARE}', short),
    table_runs.Row('npu_0', 'configs/dual_swin.py', [NPU, *short]),
  ]
  short = table_runs.short_schedule(options.plugged_epochs)
  rows += [
    table_runs.Row(
      _plugged(method, plugged), f'configs/{method}.py', [*flags, *short]
    )
    for method in TABLE_6
    for plugged, (_, flags) in PLUGGED.items()
  ]
  table_runs.run_all(rows, options.out, options.parallel)
  print(tables(options.out, options.epochs, options.plugged_epochs))


def _row(ablation: str, seed: int, schedule: list[str]) -> table_runs.Row:
  return table_runs.Row(
    _folder(ablation, seed),
    f'configs/dual_swin.py:ablation={ablation}',
    [f'--config.seed={seed}', *schedule],
  )


def _folder(ablation: str, seed: int) -> str:
  return f'{ablation or "dual_swin"}_{seed}'


def _plugged(method: str, plugged: str) -> str:
  return f'plugged_{method}_{plugged or "alone"}'


def tables(out: pathlib.Path, epochs: float, plugged_epochs: float) -> str:
  """The tables; an average over the seeds that are there."""

  def named(names: dict[str, str]) -> list[tuple[str, list[dict]]]:
    return [
      (
        f'{title} (`{name or "none"}`)',
        _read(out, [_folder(name, seed) for seed in range(3)], epochs),
      )
      for name, title in names.items()
    ]

  sizes = [
    ('72x36', _read(out, [_folder('', 0)], epochs)),
    ('72x72', _read(out, ['square_0'], epochs)),
  ]
  plugged = [
    (
      f'{name} {title}',
      _read(out, [_plugged(method, short)], plugged_epochs),
    )
    for method, name in TABLE_6.items()
    for short, (title, _) in PLUGGED.items()
  ]
  lines = ['### Table 2: components', '', *_table(named(TABLE_2))]
  lines += ['', '### Table 8: private stages', '', *_table(named(TABLE_8))]
  lines += ['', '### Size of the images', '', *_table(sizes)]
  lines += ['', '### Table 6: in other methods', '', *_table(plugged)]
  lines += ['', '### By the protocol of NPU-ReID', '']
  for report in _read(out, ['npu_0'], epochs):
    lines += _directions(report)
  return '\n'.join(lines)


def _table(rows: list[tuple[str, list[dict]]]) -> list[str]:
  lines = [
    '| row | seeds | rank-1 | mAP | multi-shot rank-1 | multi-shot mAP | '
    'parameters at test |',
    '| --- |' + ' ---: |' * 6,
  ]
  for title, reports in rows:
    cells = [
      table_runs.mean([_find(r, search)[metric] for r in reports])
      for search in SEARCHES
      for metric in ('rank1', 'mAP')
    ]
    counts = [f'{r["parameters_at_test"] / 1e6:.3f} M' for r in reports]
    cells.append(counts[0] if counts else '-')
    lines.append(f'| {title} | {len(reports)} | {" | ".join(cells)} |')
  return lines


def _directions(report: dict) -> list[str]:
  lines = [
    '| search | rank-1 | rank-10 | mAP |',
    '| --- | ---: | ---: | ---: |',
  ]
  for search, result in report['results'].items():
    cells = [f'{result[m]:.1f}' for m in ('rank1', 'rank10', 'mAP')]
    lines.append(f'| {search} | {" | ".join(cells)} |')
  return lines


def _find(report: dict, search: str) -> dict:
  """A search's result; XIV's by Eq. 2."""
  results = report['results']
  return results.get(f'{search}, sum over modalities') or results[search]


def _read(out: pathlib.Path, folders: list[str], epochs: float) -> list[dict]:
  return [
    report
    for report in table_runs.read(out, folders)
    if report['config']['schedule']['epochs'] == epochs
  ]


if __name__ == '__main__':
  main()
