"""Writes the report of a run: one HTML page that opens offline.

  python -m jaxreid.report WORKDIR [--out=PAGE]

Training and evaluation write it to WORKDIR/report.html by themselves; this
writes it anew, of a run on its way, too. Needs neither the dataset nor a
device.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from jaxreid.reports import page


def main(argv: Sequence[str] | None = None):
  """Runs the command; a mistake is one sentence and the status 1."""
  parser = argparse.ArgumentParser(
    'python -m jaxreid.report', description='Writes the report of a run.'
  )
  parser.add_argument('workdir', type=pathlib.Path, help='folder of the run')
  parser.add_argument(
    '--out', type=pathlib.Path, help='default: WORKDIR/report.html'
  )
  options = parser.parse_args(argv)
  out = options.out or options.workdir / page.FILE
  try:
    page.write(options.workdir, out)
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)
  print(f'written to {out}')


if __name__ == '__main__':
  main()
