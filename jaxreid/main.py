"""Trains and evaluates.

  python -m jaxreid.main --config=configs/lupi.py --workdir=/tmp/lupi

renders or opens the dataset, trains (or goes on where a killed run stopped),
evaluates and prints the table of results. `--mode=evaluate` evaluates the
checkpoint of a workdir alone. `--config=configs/lupi.py:dataset=sysu_mm01`
passes an argument to the config; `--config.seed=1` overrides any field.
"""

import os
import pathlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file, with its argument after a colon.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the run: checkpoints, metrics, results.'
)
_MODE = flags.DEFINE_enum(
  'mode',
  'train',
  ['train', 'evaluate'],
  'Train and evaluate, or only the last.',
)


def main(argv: Sequence[str]):
  """Runs the mode that the flags ask for."""
  if len(argv) > 1:
    _fail(f'unexpected argument {argv[1]!r}')
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)
  config = _CONFIG.value
  _prepare_jax(config.deterministic)
  # Imported late, so that a mistyped flag is answered at once.
  from jaxreid import train

  try:
    run = train.open_run(config, _WORKDIR.value)
  except (ValueError, OSError) as error:
    _fail(error)
  try:
    if _MODE.value == 'train':
      train.train(run)
    report = train.evaluate(run)
  except train.RunError as error:
    _fail(error)
  print(report['table'])
  print(f'written to {run.workdir}/results.md and results.json')


def _prepare_jax(deterministic: bool):
  """Settings that must be made before JAX meets its devices."""
  if deterministic:
    flag = '--xla_gpu_deterministic_ops=true'
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {flag}'
  import jax

  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    cache = os.environ.get('XDG_CACHE_HOME', '~/.cache')
    folder = pathlib.Path(cache, 'jaxreid', 'compiled').expanduser()
    jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


def _fail(error: object) -> NoReturn:
  logging.debug('traceback', exc_info=True)
  print(f'error: {error}', file=sys.stderr)
  sys.exit(1)


def _parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses the flags; a config's own complaint becomes one sentence."""
  _find_config_package(argv)
  try:
    rest = flags.FLAGS(argv)
    if any(flag in argv for flag in ('--help', '-h', '--helpfull')):
      return app.parse_flags_with_usage(list(argv))
    for name in ('config', 'workdir'):
      if flags.FLAGS[name].value is None:
        _fail(f'--{name} is missing; see `python -m jaxreid.main --help`')
  except (
    flags.Error,
    ValueError,
    AttributeError,
    KeyError,
    OSError,
    TypeError,
  ) as error:
    _fail(error.args[0] if isinstance(error, KeyError) else error)
  return rest


def _find_config_package(argv: Sequence[str]):
  """Lets a config file import its neighbours from any current folder."""
  for arg in argv:
    if arg.startswith('--config='):
      path = arg.removeprefix('--config=').split(':')[0]
      sys.path.append(str(pathlib.Path(path).absolute().parent.parent))


if __name__ == '__main__':
  app.run(main, flags_parser=_parse_flags)
