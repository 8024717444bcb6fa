"""Trains and evaluates.

  python -m jaxreid.main --config=configs/lupi.py --workdir=/tmp/lupi

renders or opens the dataset, trains (or goes on where a killed run stopped),
evaluates and prints the table of results. `--mode=evaluate` evaluates the
checkpoint of a workdir alone, or in a new one a network that others released
(`--config.weights=FILE`). `--config=configs/lupi.py:dataset=sysu_mm01`
passes an argument to the config; `--config.seed=1` overrides any field.
"""

import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import ml_collections
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

  if config.dataset.trials:
    _run_trials(config)
    return
  try:
    run = train.open_run(
      config,
      flags.FLAGS.workdir,
      exists=_MODE.value == 'evaluate' and not config.weights,
    )
  except (ValueError, OSError) as error:
    _fail(error)
  try:
    if _MODE.value == 'train':
      train.train(run)
    report = train.evaluate(run)
  except train.RunError as error:
    _fail(error)
  _show(report, run.workdir)


def _run_trials(config: ml_collections.ConfigDict):
  from jaxreid import train, trials

  try:
    report = trials.run_trials(
      config, flags.FLAGS.workdir, train=_MODE.value == 'train'
    )
  except (ValueError, OSError, train.RunError) as error:
    _fail(error)
  _show(report, flags.FLAGS.workdir)


def _show(report: dict[str, Any], workdir: str | os.PathLike):
  print(report['table'])
  for fact in report.get('facts', ()):
    print(fact)
  print(f'written to {workdir}/results.md and results.json')


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
  """Parses the flags; every mistake in them becomes one sentence."""
  if any(flag in argv for flag in ('--help', '-h', '--helpfull')):
    return app.parse_flags_with_usage(list(argv))
  config = _value_of('config', argv)
  if config is not None:
    path = pathlib.Path(config.split(':')[0])
    if not path.is_file():
      _fail(f'the config file {path} does not exist; see the folder configs')
    # A config file imports its neighbours, whatever the current folder is.
    sys.path.append(str(path.absolute().parent.parent))
  try:
    rest = flags.FLAGS(argv)
  except flags.Error as error:
    _fail(_sentence(error))
  except (AttributeError, KeyError):
    # Overriding a field that is not there; all else is a bug to be shown.
    unknown = _unknown_field(config, argv) if config else None
    if unknown is None:
      raise
    _fail(unknown)
  for name in ('config', 'workdir'):
    if not flags.FLAGS[name].value:
      _fail(f'--{name} is missing; see `python -m jaxreid.main --help`')
  return rest


def _value_of(flag: str, argv: Sequence[str]) -> str | None:
  """The last value given to a flag, as --flag=value or --flag value."""
  value = None
  for arg, following in zip(argv, [*argv[1:], ''], strict=True):
    if arg in (f'--{flag}', f'-{flag}'):
      value = following
    elif arg.startswith((f'--{flag}=', f'-{flag}=')):
      value = arg.partition('=')[2]
  return value


def _sentence(error: flags.Error) -> str:
  """What a flag complains of; of a config file, its own ValueError."""
  if 'parsing config file' not in str(error):
    return str(error)
  cause: BaseException = error
  while cause.__context__:
    cause = cause.__context__
  if isinstance(cause, ValueError):
    return str(cause)
  raise error


def _unknown_field(config: str, argv: Sequence[str]) -> str | None:
  """Names the first override of a field that the config does not have."""
  fields = flags.FLAGS['config'].parser.parse(config)
  for arg in argv:
    if not arg.startswith('--config.'):
      continue
    name = arg.removeprefix('--config.').partition('=')[0]
    known = fields
    for part in name.split('.'):
      if not isinstance(known, ml_collections.ConfigDict):
        return f'the config has no field {name!r}: {part!r} is one too many'
      if part.partition('[')[0] not in known:
        there = ', '.join(sorted(known))
        return f'the config has no field {name!r}; beside it are: {there}'
      known = known[part.partition('[')[0]]
  return None


if __name__ == '__main__':
  app.run(main, flags_parser=_parse_flags)
