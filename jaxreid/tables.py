"""Runs a table of a paper and prints it beside the paper's figures.

  python -m jaxreid.tables --list
  python -m jaxreid.tables lupi_table4 --dataset=synthetic_reid --seeds=3 \\
      --schedule=short --out=/tmp/tables

Without `--dataset` it is the paper's own. Rows that have their results are not
run again and killed ones go on, so the same command can be repeated; it writes
OUT/TABLE.md and OUT/TABLE.json at the end, also of what there is so far.
Overrides for every run are given as `--config.FIELD=VALUE`.
"""

import argparse
import math
import pathlib
import sys
from collections.abc import Sequence

import jaxreid
from jaxreid import table_text
from jaxreid.published import Row, Table, layout_of, read_tables
from jaxreid.table_runs import Plan, is_finished, plan_row, plan_runs, run_all


def main(argv: Sequence[str] | None = None):
  """Runs the command; a mistake is one sentence and the status 1."""
  parser = _parser()
  options, rest = parser.parse_known_args(argv)
  for argument in rest:
    if not (argument.startswith('--config.') and '=' in argument):
      parser.error(
        f'unexpected argument {argument!r}; overrides are --config.FIELD=VALUE'
      )
  try:
    failed = _run(options, tuple(rest))
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)
  except KeyboardInterrupt:
    print('stopped; the same command goes on', file=sys.stderr)
    sys.exit(130)
  for folder, why in failed.items():
    print(f'error: {folder}: {why}; see log.txt there', file=sys.stderr)
  if failed:
    sys.exit(1)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    'python -m jaxreid.tables', description=__doc__.split('\n')[0]
  )
  parser.add_argument('table', nargs='?', help='such as lupi_table4')
  parser.add_argument('--list', action='store_true', help='show all tables')
  parser.add_argument('--dataset', help="default: the table's own")
  parser.add_argument('--seeds', type=int, default=1, help='runs of a row')
  parser.add_argument(
    '--out', type=pathlib.Path, default='tables', help='folder of all runs'
  )
  parser.add_argument(
    '--schedule',
    choices=('default', 'short'),
    default='default',
    help="the config's own, or minutes on the rendered set",
  )
  parser.add_argument(
    '--parallel', type=int, default=1, help='runs at a time, one core each'
  )
  parser.add_argument(
    '--rows', help='comma separated numbers of rows, from 1; default: all'
  )
  parser.add_argument(
    '--configs', type=pathlib.Path, help='folder of the config files'
  )
  parser.add_argument(
    '--no-run', action='store_true', help='only print what there is'
  )
  return parser


def _run(options: argparse.Namespace, flags: tuple[str, ...]) -> dict:
  tables = read_tables()
  if options.list:
    print(table_text.listing(tables.values()))
    return {}
  if options.table not in tables:
    raise ValueError(
      f'there is no table {options.table!r}; there are: ' + ', '.join(tables)
    )
  if options.seeds < 1 or options.parallel < 1:
    raise ValueError('--seeds and --parallel are 1 or more')
  if any(flag.startswith('--config.seed=') for flag in flags):
    raise ValueError('runs have the seeds 0, 1, ...: give --seeds, how many')
  table = tables[options.table]
  plan = make_plan(table, options, flags)
  rows, left_out = choose_rows(table, options.rows, plan)
  failed = {}
  if not options.no_run:
    print(_forecast(rows, plan), flush=True)
    failed = run_all(plan_runs(rows, plan), options.parallel)
  runs = {
    row.name: [plan_row(row, plan, seed)[-1] for seed in range(plan.seeds)]
    for row in table.rows
  }
  shown = table_text.compare(table, runs, plan, left_out)
  plan.out.mkdir(parents=True, exist_ok=True)
  table_text.write(shown, plan.out)
  print(table_text.markdown(shown))
  print(f'written to {plan.out}/{table.name}.md and {table.name}.json')
  return failed


def make_plan(
  table: Table, options: argparse.Namespace, flags: tuple[str, ...]
) -> Plan:
  """How the table is run.

  A dataset that the table has no columns for is searched by the protocol of
  one that it has.

  Raises:
    ValueError: for RegDB, whose cameras suit no protocol but its own.
  """
  dataset = options.dataset or next(iter(table.columns))
  layout = layout_of(table, dataset)
  if dataset == 'regdb' and layout != dataset:
    raise ValueError(
      f"{table.name} has no columns for regdb, on which none of the table's "
      f'searches can be made; its datasets are {", ".join(table.columns)}, and '
      'synthetic_reid'
    )
  forced = '' if layout in (dataset, 'sysu_mm01') else layout
  return Plan(
    dataset,
    forced,
    options.schedule,
    options.seeds,
    options.out.absolute(),
    _find_configs(options.configs),
    flags,
  )


def choose_rows(
  table: Table, wanted: str | None, plan: Plan
) -> tuple[list[Row], dict[str, str]]:
  """The rows to run, and why the others are left out.

  Raises:
    ValueError: on the number of a row that is not there.
  """
  numbers = range(1, len(table.rows) + 1)
  chosen = wanted.split(',') if wanted else [str(n) for n in numbers]
  unknown = [n for n in chosen if n not in map(str, numbers)]
  if unknown:
    raise ValueError(
      f'--rows: {table.name} has the rows 1 to {len(table.rows)}, '
      f'not {unknown[0]!r}'
    )
  left_out = {}
  for number, row in zip(numbers, table.rows, strict=True):
    given = any(flag.startswith(f'--{row.needs}=') for flag in plan.flags)
    if str(number) not in chosen:
      left_out[row.name] = 'not asked for by --rows'
    elif row.needs and not given:
      left_out[row.name] = f'needs --{row.needs}=FILE'
    elif row.heavy and not wanted and plan.dataset == 'synthetic_reid':
      left_out[row.name] = f'hours on a CPU; --rows={number} runs it'
  return [row for row in table.rows if row.name not in left_out], left_out


def _find_configs(given: pathlib.Path | None) -> pathlib.Path:
  """Configs are files beside the package, not a part of it."""
  beside = pathlib.Path(jaxreid.__file__).parents[1] / 'configs'
  for folder in (given,) if given else (pathlib.Path('configs'), beside):
    if (folder / 'common.py').is_file():
      return folder.absolute()
  raise ValueError(
    f'the config files are not in {given or "./configs"}; give --configs='
    'FOLDER, the folder configs of the source tree of jaxreid'
  )


def _forecast(rows: Sequence[Row], plan: Plan) -> str:
  runs = plan_runs(rows, plan)
  missing = sum(not is_finished(run) for run in runs)
  minutes = sum(
    row.minutes
    for row in rows
    for seed in range(plan.seeds)
    if not is_finished(plan_row(row, plan, seed)[-1])
  )
  text = f'{len(runs)} runs in {plan.out}, {missing} to do'
  measured = plan.dataset == 'synthetic_reid' and plan.schedule == 'short'
  if measured and missing and not math.isnan(minutes):
    text += f', about {minutes:.0f} minutes of one CPU core'
  return text


if __name__ == '__main__':
  main()
