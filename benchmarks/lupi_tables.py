"""Tables 3, 4 and 5 of the LUPI paper, on the rendered set.

  python benchmarks/lupi_tables.py --out=/tmp/lupi_tables

trains every row with one shortened schedule (resumable: rows that have their
results are not run again, a killed one goes on), and prints the tables as
Markdown. Headline rows take three seeds, the others one.
"""

import argparse
import concurrent.futures
import json
import pathlib
import queue
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
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
  runs = [(name, 0) for name in HEADLINE + OTHERS]
  runs += [(name, seed) for seed in (1, 2) for name in HEADLINE]
  cores: queue.Queue = queue.Queue()
  for core in range(options.parallel):
    cores.put(core)

  def run(row: tuple[str, int]):
    core = cores.get()
    try:
      run_row(*row, options, core)
    finally:
      cores.put(core)

  with concurrent.futures.ThreadPoolExecutor(options.parallel) as pool:
    list(pool.map(run, runs))
  print(tables(options.out, options.epochs))


def workdir(out: pathlib.Path, ablation: str, seed: int) -> pathlib.Path:
  return out / f'{ablation or "lupi"}_{seed}'


def run_row(ablation: str, seed: int, options: argparse.Namespace, core: int):
  folder = workdir(options.out, ablation, seed)
  if (folder / 'results.json').exists():
    return
  folder.mkdir(parents=True, exist_ok=True)
  epochs = options.epochs
  alone = [] if options.parallel == 1 else ['taskset', '-c', str(core)]
  command = [
    *alone,
    *(sys.executable, '-m', 'jaxreid.main', f'--workdir={folder}'),
    f'--config=configs/lupi.py:ablation={ablation}',
    f'--config.seed={seed}',
    f'--config.schedule.epochs={epochs}',
    f'--config.schedule.warmup_epochs={0.1 * epochs}',
    f'--config.schedule.decay_epochs=({0.6 * epochs},{0.85 * epochs})',
  ]
  print(' '.join(command), flush=True)
  with (folder / 'log.txt').open('a') as log:
    subprocess.run(command, cwd=ROOT, check=True, stdout=log, stderr=log)


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
      _mean([r['results'][search][metric] for r in runs if search])
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
      pair = [_mean([r[m] for r in results], False) for m in ('rank1', 'mAP')]
      cells.append(' / '.join(pair))
    lines.append(f'| {search.split(",")[0]} | ' + ' | '.join(cells) + ' |')
  return lines


def _reports(out: pathlib.Path, ablation: str, epochs: float) -> list[dict]:
  files = [workdir(out, ablation, s) / 'results.json' for s in range(3)]
  found = [json.loads(f.read_text()) for f in files if f.exists()]
  return [r for r in found if r['config']['schedule']['epochs'] == epochs]


def _mean(values: list[float], spread: bool = True) -> str:
  if not values:
    return '-'
  mean = f'{statistics.mean(values):.1f}'
  if len(values) == 1 or not spread:
    return mean
  return f'{mean} ± {statistics.stdev(values):.1f}'


if __name__ == '__main__':
  main()
