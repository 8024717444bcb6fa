"""Tables 2 and 3 of the TS-GAN paper, on the rendered set.

  python benchmarks/tsgan_tables.py --out=/tmp/tsgan_tables

trains every row with one shortened schedule (resumable: rows that have their
results are not run again, a killed one goes on), and prints the tables as
Markdown. All students have one teacher, which is the infrared row of table 3.
Headline rows take three seeds, the others one. A run gives its results with
and without re-ranking.
"""

import argparse
import pathlib

import table_runs

HEADLINE = ('backbone', 'od_all', '')
OTHERS = ('od_single',)
TEACHERS = ('teacher_infrared', 'teacher_visible')
SINGLE = 'infrared->visible, all, single-shot'
RERANKED = f'{SINGLE}, re-ranked'
# Table 1's four settings.
SEARCHES = tuple(
  f'infrared->visible, {search}, {shots}-shot'
  for search in ('all', 'indoor')
  for shots in ('single', 'multi')
)
# Ablation -> the paper's name, its single-shot rank-1 and mAP on SYSU-MM01.
TABLE_2 = {
  'backbone': ('Backbone', '41.4', '39.9'),
  'od_single': ('OD, single TS', '44.2', '44.1'),
  'od_all': ('OD, all TS', '47.6', '44.5'),
  '': ('JD, all TS', '49.8', '47.4'),
}
# ... and the search that it is read on.
TABLE_3 = {
  'teacher_infrared': ('IR', 'infrared', '98.0', '97.4'),
  'teacher_visible': ('RGB', 'visible', '99.1', '98.5'),
}


def main():
  """Runs what is missing, then prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--epochs', type=float, default=1.6)
  parser.add_argument('--teacher_epochs', type=float, default=3.6)
  parser.add_argument(
    '--parallel', type=int, default=1, help='runs at a time, one core each'
  )
  options = parser.parse_args()
  teachers = [_row(options, name, 0) for name in TEACHERS]
  # The students start from the first of these.
  table_runs.run_all(teachers, options.out, options.parallel)
  wanted = [(name, 0) for name in HEADLINE + OTHERS]
  wanted += [(name, seed) for seed in (1, 2) for name in HEADLINE]
  students = [_row(options, name, seed) for name, seed in wanted]
  table_runs.run_all(students, options.out, options.parallel)
  print(tables(options.out))


def folder(ablation: str, seed: int) -> str:
  """A row's folder."""
  return f'{ablation or "tsgan"}_{seed}'


def _row(
  options: argparse.Namespace, ablation: str, seed: int
) -> table_runs.Row:
  alone = ablation in TEACHERS
  epochs = options.teacher_epochs if alone else options.epochs
  flags = [f'--config.seed={seed}', *table_runs.short_schedule(epochs)]
  if not alone and ablation != 'backbone':
    first = options.out / folder(TEACHERS[0], 0)
    flags.append(f'--config.teacher={first.absolute()}')
  return table_runs.Row(
    folder(ablation, seed), f'configs/tsgan.py:ablation={ablation}', flags
  )


def tables(out: pathlib.Path) -> str:
  """The tables; an average over the seeds that are there."""
  reports = {
    name: table_runs.read(out, [folder(name, seed) for seed in range(3)])
    for name in (*TABLE_2, *TABLE_3)
  }
  return '\n'.join(
    [
      '### Table 2: components',
      '',
      *_table_2(reports),
      '',
      '### Table 3: one modality',
      '',
      *_table_3(reports),
      '',
      '### Table 1: the four settings (rank-1 / mAP)',
      '',
      *_table_1(reports['']),
    ]
  )


def _table_2(reports: dict[str, list]) -> list[str]:
  lines = [
    '| row | seeds | rank-1 | rank-10 | rank-20 | mAP | rank-1, re-ranked | '
    'mAP, re-ranked | SYSU-MM01 in the paper: rank-1, mAP |',
    '| --- |' + ' ---: |' * 8,
  ]
  for ablation, (title, rank1, mean_ap) in TABLE_2.items():
    cells = [_mean(reports[ablation], SINGLE, m) for m in _METRICS]
    cells += [_mean(reports[ablation], RERANKED, m) for m in ('rank1', 'mAP')]
    lines.append(
      f'| {title} (`{ablation or "none"}`) | {len(reports[ablation])} | '
      + ' | '.join(cells)
      + f' | {rank1}, {mean_ap} |'
    )
  lines.append(
    '| In the paper JD, all TS, re-ranked' + ' | -' * 7 + ' | 58.3, 55.1 |'
  )
  return lines


def _table_3(reports: dict[str, list]) -> list[str]:
  lines = [
    '| trained and tested on | seeds | rank-1 | rank-10 | mAP | SYSU-MM01 in '
    'the paper: rank-1, mAP |',
    '| --- |' + ' ---: |' * 5,
  ]
  for ablation, (title, modality, rank1, mean_ap) in TABLE_3.items():
    search = f'{modality}->{modality}, all, multi-shot'
    cells = [
      _mean(reports[ablation], search, m) for m in ('rank1', 'rank10', 'mAP')
    ]
    lines.append(
      f'| {title} (`{ablation}`) | {len(reports[ablation])} | '
      + ' | '.join(cells)
      + f' | {rank1}, {mean_ap} |'
    )
  return lines


def _table_1(reports: list) -> list[str]:
  names = [name.split(', ', 1)[1] for name in SEARCHES]
  lines = ['| | ' + ' | '.join(names) + ' |', '| --- |' + ' ---: |' * 4]
  for title, suffix in (('TS-GAN', ''), ('re-ranked', ', re-ranked')):
    cells = [
      ' / '.join(_mean(reports, search + suffix, m) for m in ('rank1', 'mAP'))
      for search in SEARCHES
    ]
    lines.append(f'| {title} | ' + ' | '.join(cells) + ' |')
  return lines


_METRICS = ('rank1', 'rank10', 'rank20', 'mAP')


def _mean(reports: list, search: str, metric: str) -> str:
  return table_runs.mean(
    [r['results'][search][metric] for r in reports if search in r['results']]
  )


if __name__ == '__main__':
  main()
