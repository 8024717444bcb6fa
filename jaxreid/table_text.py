"""A table of ours beside the paper's: as Markdown, as JSON, and a list of all.

Synopsis:

  shown = compare(table, runs, plan, left_out={})
  write(shown, folder)       # NAME.md and NAME.json
  print(markdown(shown))
"""

import json
import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxreid.published import Table, find_figure, layout_of
from jaxreid.table_runs import Plan, Run, read

_METRICS = {
  'rank1': 'rank-1',
  'rank5': 'rank-5',
  'rank10': 'rank-10',
  'rank20': 'rank-20',
}
# Overrides that the paper's setting needs, or that change where and how fast a
# run computes but not what.
_HARMLESS = (
  'backbone.pretrained',
  'backbone.remat',
  'checkpoint_every',
  'dataset.data_dir',
  'dataset.residency',
  'deterministic',
  'evaluation.batch_size',
  'log_every',
  'profile_steps',
  'steps_per_dispatch',
)


def compare(
  table: Table,
  runs: Mapping[str, Sequence[Run]],
  plan: Plan,
  left_out: Mapping[str, str],
) -> dict[str, Any]:
  """All that is known of the table, fit for JSON.

  Args:
    table: of the paper.
    runs: name of a row -> its runs, finished or not.
    plan: by which they were made.
    left_out: name of a row -> why it was not run.

  Returns:
    'table', 'title', 'paper', 'dataset', 'layout', 'schedule', 'columns'
    (search, metric) and 'rows': name, config, 'runs' (folders), 'seeds'
    (finished), 'searched' (modalities, if not the column's), 'ours' (per
    column: mean, std, values; null if there is none), 'published' (per
    column, or null), 'comparable' and 'why_not'.
  """
  layout = layout_of(table, plan.dataset)
  columns = table.columns[layout]
  rows = []
  for row in table.rows:
    reports = [report for run in runs[row.name] if (report := read(run))]
    figures = row.figures(layout, len(columns))
    why_not = _differences(reports, plan, layout)
    if all(map(math.isnan, figures)):
      why_not.append('no figure in the paper')
    rows.append(
      {
        'name': row.name,
        'config': f'{row.config}:{row.argument}'.rstrip(':'),
        'runs': [str(run.folder) for run in runs[row.name]],
        'seeds': len(reports),
        'searched': row.pair,
        'left_out': left_out.get(row.name, ''),
        'ours': [
          _summary([find_figure(r['results'], column, row) for r in reports])
          for column in columns
        ],
        'published': [None if math.isnan(x) else x for x in figures],
        'comparable': bool(reports) and not why_not,
        'why_not': why_not,
      }
    )
  return {
    'table': table.name,
    'title': table.title,
    'paper': table.paper,
    'dataset': plan.dataset,
    'layout': layout,
    'schedule': plan.schedule,
    'columns': [column._asdict() for column in columns],
    'rows': rows,
  }


def _differences(
  reports: Sequence[Mapping[str, Any]], plan: Plan, layout: str
) -> list[str]:
  """In what our runs differ from the paper's, beside luck."""
  differences = []
  if plan.dataset != layout:
    differences.append(f'other data ({plan.dataset})')
  if plan.schedule != 'default':
    differences.append('short schedule')
  configs = [report['config'] for report in reports]
  if any(
    not config['backbone']['pretrained'] and not config.get('weights')
    for config in configs
  ):
    differences.append('random initial weights')
  changing = [flag for flag in plan.flags if not _is_harmless(flag)]
  if changing:
    differences.append(f'overrides ({" ".join(changing)})')
  return differences


def _is_harmless(flag: str) -> bool:
  """Whether an override leaves the paper's setting as it is."""
  return flag.removeprefix('--config.').partition('=')[0] in _HARMLESS


def _summary(values: Sequence[float]) -> dict[str, Any] | None:
  values = [value for value in values if not math.isnan(value)]
  if not values:
    return None
  return {
    'mean': statistics.mean(values),
    'std': statistics.stdev(values) if len(values) > 1 else None,
    'values': values,
  }


def markdown(shown: Mapping[str, Any]) -> str:
  """The table, a line per row: ours, and the paper's in brackets."""
  columns = shown['columns']
  header = ['row', 'seeds', *map(_heading, columns), 'comparable']
  lines = [
    f'## {shown["title"]}',
    '',
    f'{shown["paper"]}.',
    '',
    f'Ours on {shown["dataset"]} ({shown["schedule"]} schedule), per cent, '
    'mean ± standard deviation over the seeds; in brackets what the paper '
    f'prints for {shown["layout"]}.',
    '',
    '| ' + ' | '.join(header) + ' |',
    '| --- |' + ' ---: |' * (len(columns) + 1) + ' --- |',
  ]
  for row in shown['rows']:
    cells = [
      f'{_ours(ours)} ({_published(paper)})'
      for ours, paper in zip(row['ours'], row['published'], strict=True)
    ]
    searched = f', searched {row["searched"]}' if row['searched'] else ''
    name = f'{row["name"]} (`{row["config"]}`{searched})'
    seeds = str(row['seeds'])
    lines.append('| ' + ' | '.join([name, seeds, *cells, _note(row)]) + ' |')
  return '\n'.join(lines) + '\n'


def _heading(column: Mapping[str, str]) -> str:
  metric = column['metric']
  return f'{column["search"]}: {_METRICS.get(metric, metric)}'


def _ours(figure: Mapping[str, Any] | None) -> str:
  if figure is None:
    return '-'
  spread = '' if figure['std'] is None else f' ± {figure["std"]:.1f}'
  return f'{figure["mean"]:.1f}{spread}'


def _published(figure: float | None) -> str:
  return '-' if figure is None else f'{figure:.2f}'.rstrip('0').rstrip('.')


def _note(row: Mapping[str, Any]) -> str:
  if not row['seeds']:
    return f'not run: {row["left_out"]}' if row['left_out'] else 'not run yet'
  if row['comparable']:
    return 'yes'
  return 'no: ' + ', '.join(row['why_not'])


def write(shown: Mapping[str, Any], folder: pathlib.Path):
  """Writes NAME.md and NAME.json."""
  name = shown['table']
  (folder / f'{name}.md').write_text(markdown(shown))
  text = json.dumps(shown, indent=2) + '\n'
  (folder / f'{name}.json').write_text(text)


def listing(tables: Iterable[Table]) -> str:
  """All tables and rows, with the time that a run takes."""
  lines = [
    'Minutes are of one run with --dataset=synthetic_reid --schedule=short on '
    'one CPU core.'
  ]
  paper = ''
  for table in tables:
    if table.paper != paper:
      paper = table.paper
      lines += ['', paper]
    data = ', '.join(table.columns)
    lines += ['', f'  {table.name}: {table.title} ({data})']
    for number, row in enumerate(table.rows, 1):
      time = f'{row.minutes:.1f} min'
      if math.isnan(row.minutes):
        time = 'hours on a CPU' if row.heavy else 'not measured'
      config = f'{row.config}:{row.argument}'.rstrip(':')
      name = f'{number}. {row.name}'
      lines.append(f'    {name:48}  {time:>14}  {config}')
  return '\n'.join(lines)
