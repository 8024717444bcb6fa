"""Tables 3, 4 and 5 of the LUPI paper, on the rendered set.

  python benchmarks/lupi_tables.py --out=/tmp/lupi_tables

trains every row with one shortened schedule (resumable: rows that have their
results are not run again, a killed one goes on), and prints the tables as
Markdown. Headline rows take three seeds, the others one.
"""

import argparse
import pathlib

import table_runs

HEADLINE = ('agw', 'gray', 'random_gray', '')
OTHERS = (
  'visible_only',
  'infrared_only',
  'gray_only',
  'id_only',
  'triplet_only',
  'color_only',
)
SINGLE = 'infrared->visible, all, single-shot'
MULTI = 'infrared->visible, all, multi-shot'
CROSS = (SINGLE, MULTI)
# The row trained and tested on infrared; no single-shot search of that kind.
INFRARED = ('', 'infrared->infrared, all, multi-shot')
# Ablation -> the paper's name, its single-shot rank-1 and mAP on SYSU-MM01.
TABLE_4 = {
  'pretrained': ('Pre-trained: left out, needs a weights file', '2.26', '3.61'),
  'visible_only': ('Visible-trained', '7.41', '8.83'),
  'agw': ('Baseline (AGW)', '49.41', '41.55'),
  'gray': ('Grayscale', '61.45', '59.46'),
  'random_gray': ('RandG', '64.50', '61.05'),
  '': ('RandG + Aug', '71.08', '66.76'),
  'infrared_only': ('Infrared (train-test)', '90.34', '87.45'),
}
TABLE_5 = {
  'id_only': ('Baseline', '42.89', '43.51'),
  'triplet_only': ('Triplet Loss', '55.56', '52.96'),
  'color_only': ('Color Loss', '53.97', '51.68'),
  'random_gray': ('Ours', '64.50', '61.05'),
}
TABLE_3 = {
  'visible_only': 'V',
  'infrared_only': 'I',
  'gray_only': 'G',
  'agw': 'I-V',
  'gray': 'I-V-G',
}
SEARCHES_3 = (
  'visible->visible, all, multi-shot',
  'infrared->infrared, all, multi-shot',
  'gray->gray, all, multi-shot',
  MULTI,
  'infrared->gray, all, multi-shot',
)


def main():
  """Runs what is missing, then prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--epochs', type=float, default=3.6)
  parser.add_argument(
    '--parallel', type=int, default=1, help='runs at a time, one core each'
  )
  options = parser.parse_args()
  wanted = [(name, 0) for name in HEADLINE + OTHERS]
  wanted += [(name, seed) for seed in (1, 2) for name in HEADLINE]
  rows = [
    table_runs.Row(
      folder(name, seed),
      f'configs/lupi.py:ablation={name}',
      [f'--config.seed={seed}', *table_runs.short_schedule(options.epochs)],
    )
    for name, seed in wanted
  ]
  table_runs.run_all(rows, options.out, options.parallel)
  print(tables(options.out, options.epochs))


def folder(ablation: str, seed: int) -> str:
  return f'{ablation or "lupi"}_{seed}'


def tables(out: pathlib.Path, epochs: float) -> str:
  """The three tables; an average over the seeds that are there."""
  reports = {name: _reports(out, name, epochs) for name in HEADLINE + OTHERS}
  lines = ['### Table 4: components', '']
  lines += _searches(reports, TABLE_4)
  lines += ['', '### Table 5: losses', '']
  lines += _searches(reports, TABLE_5)
  lines += ['', '### Table 3: modalities of training and test', '']
  lines += _grid(reports)
  return '\n'.join(lines)


def _searches(reports: dict[str, list], rows: dict) -> list[str]:
  lines = [
    '| row | seeds | rank-1 | mAP | multi-shot rank-1 | multi-shot mAP | '
    'SYSU-MM01 in the paper: rank-1, mAP | parameters at test |',
    '| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |',
  ]
  for ablation, (title, rank1, mean_ap) in rows.items():
    runs = reports.get(ablation, [])
    searches = INFRARED if ablation == 'infrared_only' else CROSS
    cells = [
      table_runs.mean([r['results'][search][metric] for r in runs if search])
      for search in searches
      for metric in ('rank1', 'mAP')
    ]
    count = runs[0]['parameters_at_test'] if runs else 0
    lines.append(
      f'| {title} (`{ablation or "none"}`) | {len(runs)} | '
      + ' | '.join(cells)
      + f' | {rank1}, {mean_ap} | {count / 1e6:.3f} M |'
    )
  return lines


def _grid(reports: dict[str, list]) -> list[str]:
  lines = [
    '| query -> gallery | ' + ' | '.join(TABLE_3.values()) + ' |',
    '| --- |' + ' ---: |' * len(TABLE_3),
  ]
  for search in SEARCHES_3:
    cells = []
    for ablation in TABLE_3:
      results = [r['results'][search] for r in reports[ablation]]
      pair = [
        table_runs.mean([r[m] for r in results], False)
        for m in ('rank1', 'mAP')
      ]
      cells.append(' / '.join(pair))
    lines.append(f'| {search.split(",")[0]} | ' + ' | '.join(cells) + ' |')
  return lines


def _reports(out: pathlib.Path, ablation: str, epochs: float) -> list[dict]:
  found = table_runs.read(out, [folder(ablation, seed) for seed in range(3)])
  return [r for r in found if r['config']['schedule']['epochs'] == epochs]


if __name__ == '__main__':
  main()
