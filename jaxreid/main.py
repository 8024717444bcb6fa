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
from collections.abc import Sequence
from typing import Any

import ml_collections
from absl import app, flags, logging

from jaxreid import command_line

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the run: checkpoints, metrics, results.'
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator',
  None,
  'Host and port of process 0, for a run on many processes. TPU pods, SLURM '
  'and Open MPI need none of these three.',
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'Processes of the run.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Number of this process, from 0.'
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
    command_line.fail(f'unexpected argument {argv[1]!r}')
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)
  config = command_line.CONFIG.value
  _prepare_jax(config.deterministic)
  # Imported late, so that a mistyped flag is answered at once.
  from jaxreid import processes

  try:
    processes.initialize(
      _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )
  except ValueError as error:
    command_line.fail(error)
  with processes.together():
    _run(config)


def _run(config: ml_collections.ConfigDict):
  from jaxreid import teacher, train

  if config.dataset.trials:
    _run_trials(config)
    return
  training = _MODE.value == 'train'
  open_run = teacher.open_run if training else train.open_run
  try:
    run = open_run(
      config,
      flags.FLAGS.workdir,
      exists=not training and not config.weights,
    )
  except (ValueError, OSError) as error:
    command_line.fail(error)
  try:
    if training:
      teacher.train(run)
    report = train.evaluate(run)
  except train.RunError as error:
    command_line.fail(error)
  _show(report, run.workdir)


def _run_trials(config: ml_collections.ConfigDict):
  from jaxreid import train, trials

  try:
    report = trials.run_trials(
      config, flags.FLAGS.workdir, train=_MODE.value == 'train'
    )
  except (ValueError, OSError, train.RunError) as error:
    command_line.fail(error)
  _show(report, flags.FLAGS.workdir)


def _show(report: dict[str, Any], workdir: str | os.PathLike):
  from jaxreid import processes

  processes.say(report['table'])
  for fact in report.get('facts', ()):
    processes.say(fact)
  written = ['results.md', 'results.json']
  # A fault in the report was a warning.
  written += [p.name for p in pathlib.Path(workdir).glob('report.html')]
  processes.say(f'written to {workdir}/{", ".join(written)}')


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


def _parse_flags(argv: Sequence[str]) -> list[str]:
  return command_line.parse(argv, 'jaxreid.main', ('config', 'workdir'))


if __name__ == '__main__':
  app.run(main, flags_parser=_parse_flags)
