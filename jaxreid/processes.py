"""One run on many processes: who they are, and what they agree on.

Synopsis:

  initialize()                      # before JAX meets its devices
  say('printed once')
  stop = agreed(asked, due=step % 20 == 0)

All processes run the same command. On TPU pods, under SLURM's `srun` and under
Open MPI they find each other; elsewhere each is told by its flags.
"""

import contextlib
import glob
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

# A process that is silent for so long is taken for dead.
HEARTBEAT_SECONDS = 60
# Launchers: the variable that counts the processes of a run.
_COUNTS = ('SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE')


def initialize(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
):
  """Joins the other processes of the run, if there are any.

  Without arguments they are looked for where TPU pods, SLURM and Open MPI
  announce them; alone, nothing happens.

  Args:
    coordinator: address and port of process 0, such as 10.0.0.1:1234.
    num_processes: of the run.
    process_id: of this one, from 0.

  Raises:
    ValueError: if only some arguments are given or do not fit each other, or
      the others cannot be reached.
  """
  given = {
    'coordinator': coordinator,
    'num_processes': num_processes,
    'process_id': process_id,
  }
  missing = [name for name, value in given.items() if value is None]
  if missing and len(missing) < len(given):
    raise ValueError(
      f'--{missing[0]} is missing: many processes need --coordinator=HOST:PORT '
      '(the same for all), --num_processes and --process_id, or none of them'
    )
  if missing and not announced(os.environ):
    return
  if not (missing or 0 <= int(process_id or 0) < int(num_processes or 0)):
    raise ValueError(
      f'--process_id={process_id} is not one of --num_processes='
      f'{num_processes}, which count from 0'
    )
  try:
    jax.distributed.initialize(
      coordinator,
      num_processes,
      process_id,
      heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
      shutdown_timeout_seconds=HEARTBEAT_SECONDS,
    )
  except (RuntimeError, ValueError) as error:
    raise ValueError(
      'the processes of this run did not find each other: '
      f'{str(error).splitlines()[0]}'
    ) from error


def announced(environment: Mapping[str, str]) -> bool:
  """Whether a launcher or a TPU host says that there may be others."""
  if any(int(environment.get(name) or 1) > 1 for name in _COUNTS):
    return True
  if environment.get('JAX_PLATFORMS', 'tpu') not in ('', 'tpu', 'tpu,cpu'):
    return False
  # A TPU host knows its pod, be it one of many or the only one.
  devices = glob.glob('/dev/accel*') + glob.glob('/dev/vfio/[0-9]*')
  return bool(devices) and importlib.util.find_spec('libtpu') is not None


def is_first() -> bool:
  """Whether this process is the one that prints and writes files."""
  return jax.process_index() == 0


def agreed(asked: bool, due: bool) -> bool:
  """Whether any process was asked to stop; the same answer for all.

  Args:
    asked: whether this one was.
    due: whether this is a step at which several processes compare notes; one
      alone answers at every step.
  """
  if jax.process_count() == 1:
    return asked
  return due and bool(multihost_utils.process_allgather(np.array(asked)).any())


def say(sentence: str):
  """Prints once for all processes."""
  if is_first():
    print(sentence, flush=True)


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Ends this process with a sentence if an exchange with the others fails.

  At once: whatever else would be done on the way out waits for the dead.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if jax.process_count() == 1:
      raise
    print(f'error: {lost(error)}', file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)


def lost(error: Exception) -> str:
  """The sentence for an exchange that failed, such as when a process died."""
  lines = str(error).splitlines() or ['no reason given']
  return (
    f'process {jax.process_index()} of {jax.process_count()} stops, since an '
    f'exchange with the others failed ({lines[0][:200]}): one of them was '
    'probably killed; start the same command on all of them again, and it '
    'goes on from the last checkpoint'
  )
