"""Flags of the entry points: every mistake in them becomes one sentence.

Synopsis:

  config = CONFIG.value   # of the flag --config, which every program here has
  app.run(main, flags_parser=functools.partial(
    parse, program='jaxreid.main', required=('config', 'workdir')))
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file, with its argument after a colon.'
)


def fail(error: object) -> NoReturn:
  """Prints the error as one sentence and ends with status 1."""
  logging.debug('traceback', exc_info=True)
  print(f'error: {error}', file=sys.stderr)
  sys.exit(1)


def parse(
  argv: Sequence[str], program: str, required: Sequence[str]
) -> list[str]:
  """Parses the flags of a program that has the flag `config`.

  Args:
    argv: the command line.
    program: the module, for its help.
    required: flags that have to be given.

  Returns:
    What is left of the command line. Ends the process with a sentence on any
    mistake.
  """
  if any(flag in argv for flag in ('--help', '-h', '--helpfull')):
    return app.parse_flags_with_usage(list(argv))
  config = _value_of('config', argv)
  if config is not None:
    path = pathlib.Path(config.split(':')[0])
    if not path.is_file():
      fail(f'the config file {path} does not exist; see the folder configs')
    # A config file imports its neighbours, whatever the current folder is.
    sys.path.append(str(path.absolute().parent.parent))
  try:
    rest = flags.FLAGS(argv)
  except flags.Error as error:
    fail(_sentence(error))
  except (AttributeError, KeyError):
    # Overriding a field that is not there; all else is a bug to be shown.
    unknown = _unknown_field(config, argv) if config else None
    if unknown is None:
      raise
    fail(unknown)
  for name in required:
    if not flags.FLAGS[name].value:
      fail(f'--{name} is missing; see `python -m {program} --help`')
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
