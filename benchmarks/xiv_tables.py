"""Tables 4 and 5 of the XIV paper, on the rendered set.

  python benchmarks/xiv_tables.py --out=/tmp/xiv_tables

trains every row with one shortened schedule (resumable: rows that have their
results are not run again, a killed one goes on), and prints the tables as
Markdown. Headline rows take three seeds, the others one.
"""

import argparse
import pathlib

import table_runs

HEADLINE = ('baseline', 'x', '')
OTHERS = ('mean', 'gray', 'value', 'luma')
SINGLE = 'infrared->visible, all, single-shot'
MULTI = 'infrared->visible, all, multi-shot'
SUM, FIRST = ', sum over modalities', ', first of modalities'
# Ablation -> the paper's name, its single-shot rank-1 and mAP on SYSU-MM01.
TABLE_4 = {
  'baseline': ('Baseline', '38.39', '40.62'),
  'x': ('Baseline+X', '45.57', '47.03'),
  '': ('Baseline+X+CMG', '49.92', '50.73'),
}
TABLE_5 = {
  'mean': ('Baseline+Mean', '41.73', '44.27'),
  'gray': ('Baseline+Gray', '40.34', '42.92'),
  'value': ('Baseline+V', '44.61', '46.49'),
  'luma': ('Baseline+Y', '43.69', '45.86'),
  'x': ('Baseline+X', '45.57', '47.03'),
}


def main():
  """Runs what is missing, then prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--epochs', type=float, default=2.0)
  parser.add_argument(
    '--parallel', type=int, default=1, help='runs at a time, one core each'
  )
  options = parser.parse_args()
  wanted = [(name, 0) for name in HEADLINE + OTHERS]
  wanted += [(name, seed) for seed in (1, 2) for name in HEADLINE]
  rows = [
    table_runs.Row(
      folder(name, seed),
      f'configs/xiv.py:ablation={name}',
      [f'--config.seed={seed}', *table_runs.short_schedule(options.epochs)],
    )
    for name, seed in wanted
  ]
  table_runs.run_all(rows, options.out, options.parallel)
  print(tables(options.out, options.epochs))


def folder(ablation: str, seed: int) -> str:
  return f'{ablation or "xiv"}_{seed}'


def tables(out: pathlib.Path, epochs: float) -> str:
  """The two tables; an average over the seeds that are there."""
  reports = {
    name: [
      report
      for report in table_runs.read(
        out, [folder(name, seed) for seed in range(3)]
      )
      if report['config']['schedule']['epochs'] == epochs
    ]
    for name in HEADLINE + OTHERS
  }
  lines = ['### Table 4: components', '', *_table(reports, TABLE_4)]
  lines += ['', '### Table 5: special cases of X', '']
  lines += _table(reports, TABLE_5)
  lines += ['', 'What X became:', '']
  for name in ('x', ''):
    for report in reports[name]:
      seed, fact = report['config']['seed'], report['facts'][0]
      lines.append(f'* `{name or "none"}`, seed {seed}: {fact}')
  return '\n'.join(lines)


def _table(reports: dict[str, list], rows: dict) -> list[str]:
  lines = [
    '| row | seeds | rank-1, Eq. 2 | mAP, Eq. 2 | rank-1, V alone | '
    'mAP, V alone | multi-shot rank-1, Eq. 2 | multi-shot mAP, Eq. 2 | '
    'SYSU-MM01 in the paper: rank-1, mAP |',
    '| --- |' + ' ---: |' * 8,
  ]
  for ablation, (title, rank1, mean_ap) in rows.items():
    cells = [
      table_runs.mean([_find(r, *search)[metric] for r in reports[ablation]])
      for search in ((SINGLE, SUM), (SINGLE, FIRST), (MULTI, SUM))
      for metric in ('rank1', 'mAP')
    ]
    lines.append(
      f'| {title} (`{ablation or "none"}`) | {len(reports[ablation])} | '
      + ' | '.join(cells)
      + f' | {rank1}, {mean_ap} |'
    )
  return lines


def _find(report: dict, search: str, how: str) -> dict:
  """A search's result; the baseline has one embedding of an image."""
  results = report['results']
  return results.get(search + how) or results[search]


if __name__ == '__main__':
  main()
