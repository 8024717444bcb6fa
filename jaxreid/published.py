"""The tables of the papers, as data: whose rows, which searches, what figures.

Synopsis:

  tables = read_tables()          # of the files in jaxreid/paper_tables
  table = tables['lupi_table4']
  table.columns['sysu_mm01'][0]   # Column('infrared->visible, ...', 'rank1')
  table.rows[2].published['sysu_mm01']

One file per paper; docs/tables.md says how it is written.
"""

import math
import pathlib
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

FOLDER = pathlib.Path(__file__).parent / 'paper_tables'
METRICS = ('rank1', 'rank5', 'rank10', 'rank20', 'mAP', 'mINP')


class Column(NamedTuple):
  """A figure of a search.

  Attributes:
    search: the protocol's name, without what a method's results add to it.
    metric: one of `METRICS`.
  """

  search: str
  metric: str


class Row(NamedTuple):
  """A row: a config and what the paper prints for it.

  Attributes:
    name: as the paper has it, or near.
    config: file name of the config, such as 'lupi.py'.
    argument: its argument without the dataset, such as 'ablation=agw'.
    flags: overrides.
    pair: modalities searched in place of the column's, such as
      'infrared->infrared'; '' for the column's.
    rerank: whether the re-ranked results are meant.
    teacher: argument of the run that has to be there first, whose workdir is
      given as `--config.teacher`; '' for none.
    needs: a field without which the row means nothing, such as
      'config.backbone.pretrained'; '' for none.
    heavy: whether it is too much for a CPU, even on the rendered set.
    short_epochs: of the short schedule; 0 keeps the config's own.
    teacher_short_epochs: the same of the teacher.
    minutes: of a run by the short schedule on the rendered set, on one CPU
      core; NaN if not measured.
    published: dataset -> a figure per column, in per cent; NaN where the
      paper prints none.
  """

  name: str
  config: str
  argument: str
  flags: tuple[str, ...]
  pair: str
  rerank: bool
  teacher: str
  needs: str
  heavy: bool
  short_epochs: float
  teacher_short_epochs: float
  minutes: float
  published: dict[str, tuple[float, ...]]

  def figures(self, dataset: str, count: int) -> tuple[float, ...]:
    """What the paper prints on a dataset; `count` times NaN if nothing."""
    return self.published.get(dataset, (math.nan,) * count)


class Table(NamedTuple):
  """A table of a paper.

  Attributes:
    name: by which it is asked for, such as 'lupi_table4'.
    title: number and subject.
    paper: authors and title.
    columns: dataset -> its columns; the first is the table's own dataset.
    rows: in the paper's order.
  """

  name: str
  title: str
  paper: str
  columns: dict[str, tuple[Column, ...]]
  rows: tuple[Row, ...]


def read_tables(folder: pathlib.Path = FOLDER) -> dict[str, Table]:
  """All tables, by name.

  Raises:
    ValueError: naming the file and what is wrong with it.
  """
  tables: dict[str, Table] = {}
  for path in sorted(folder.glob('*.toml')):
    try:
      read = _read_file(path)
      twice = [table.name for table in read if table.name in tables]
      if twice:
        raise ValueError(f'there is already a table {twice[0]!r}')
    except (ValueError, TypeError, KeyError) as error:
      what = f'{error} is missing' if isinstance(error, KeyError) else error
      raise ValueError(f'{path}: {what}; see docs/tables.md') from error
    tables |= {table.name: table for table in read}
  return tables


def _read_file(path: pathlib.Path) -> list[Table]:
  data = tomllib.loads(path.read_text(encoding='utf-8'))
  return [_table(table, data) for table in data['table']]


def _table(table: Mapping[str, Any], data: Mapping[str, Any]) -> Table:
  columns = {
    dataset: _columns(groups) for dataset, groups in table['columns'].items()
  }
  rows = tuple(_row(row, data) for row in table['row'])
  if len({row.name for row in rows}) < len(rows):
    raise ValueError(f'{table["name"]} has two rows of one name')
  for row in rows:
    for dataset, figures in row.published.items():
      if len(figures) != len(columns.get(dataset, ())):
        raise ValueError(
          f'{table["name"]}, row {row.name!r}: {len(figures)} published '
          f'figures for {len(columns.get(dataset, ()))} columns of {dataset}'
        )
  return Table(table['name'], table['title'], data['paper'], columns, rows)


def _columns(groups: Sequence[Mapping[str, Any]]) -> tuple[Column, ...]:
  columns = tuple(
    Column(group['search'], metric)
    for group in groups
    for metric in group['metrics']
  )
  unknown = [c.metric for c in columns if c.metric not in METRICS]
  if unknown:
    raise ValueError(f'a metric is one of {METRICS}, not {unknown[0]!r}')
  return columns


def _row(row: Mapping[str, Any], data: Mapping[str, Any]) -> Row:
  unknown = sorted(row.keys() - set(Row._fields))
  if unknown:
    raise ValueError(f'row {row["name"]!r} has the unknown field {unknown[0]}')
  # Times belong to a config: a row of another one has its own, or none.
  own = {} if 'config' in row else data
  return Row(
    name=row['name'],
    config=row.get('config', data['config']),
    argument=row['argument'],
    flags=tuple(row.get('flags', ())),
    pair=row.get('pair', ''),
    rerank=row.get('rerank', False),
    teacher=row.get('teacher', ''),
    needs=row.get('needs', ''),
    heavy=row.get('heavy', False),
    short_epochs=row.get('short_epochs', data['short_epochs']),
    teacher_short_epochs=row.get(
      'teacher_short_epochs', data.get('teacher_short_epochs', math.nan)
    ),
    minutes=row.get('minutes', own.get('minutes', math.nan)),
    published={
      dataset: tuple(map(float, figures))
      for dataset, figures in row.get('published', {}).items()
    },
  )


def layout_of(table: Table, dataset: str) -> str:
  """Whose columns a table has on a dataset: its own, SYSU-MM01's or the first.

  The rendered set is laid out as SYSU-MM01.
  """
  for layout in (dataset, 'sysu_mm01'):
    if layout in table.columns:
      return layout
  return next(iter(table.columns))


def find_figure(
  results: Mapping[str, Mapping[str, Any]], column: Column, row: Row
) -> float:
  """A column's figure among the results of a run; NaN if it is not there.

  A method with several embeddings of an image is read by the sum of their
  distances, its own test.
  """
  pair, comma, scope = column.search.partition(',')
  search = f'{row.pair or pair}{comma}{scope}'
  end = ', re-ranked' if row.rerank else ''
  for how in (', sum over modalities', '', ', first of modalities'):
    found = results.get(f'{search}{how}{end}')
    if found is not None:
      return float(found[column.metric])
  return math.nan
