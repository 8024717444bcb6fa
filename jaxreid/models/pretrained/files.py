"""Reading files of weights, running nothing that they may hold.

Synopsis:

  weights = read('resnet50-0676ba61.pth')
  weights.tensors['conv1.weight']  # NumPy [64, 3, 7, 7]
  weights.notes                    # what was unwrapped and left out
"""

import hashlib
import pathlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from absl import logging

from jaxreid.models.pretrained.unwrap import plain_tensors

# Below it a file can run code in spite of `weights_only` (CVE-2025-32434,
# CVE-2026-24747).
_SAFE_TORCH = (2, 10)
_SAFETENSORS_TYPES = {
  'BOOL': np.bool_,
  'U8': np.uint8,
  'I8': np.int8,
  'I16': np.int16,
  'I32': np.int32,
  'I64': np.int64,
  'F16': np.float16,
  'BF16': jnp.bfloat16,
  'F32': np.float32,
  'F64': np.float64,
}


class Weights(NamedTuple):
  """What a file of weights holds.

  Attributes:
    format: 'safetensors', 'npz', 'PyTorch (zip)' or 'PyTorch (legacy)'.
    tensors: name -> array; half precision was widened to float32.
    types: type in the file -> number of tensors.
    notes: what was unwrapped or left out, a sentence each.
  """

  format: str
  tensors: dict[str, np.ndarray]
  types: dict[str, int]
  notes: tuple[str, ...]


def load(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Reads a file of named tensors; the log says what was unwrapped.

  Args:
    path: as in `read`.

  Returns:
    name -> array.

  Raises:
    FileNotFoundError, ValueError, ImportError: as `read` does.
  """
  weights = read(path)
  for note in weights.notes:
    logging.info('%s: %s', path, note)
  return weights.tensors


def read(path: str | pathlib.Path) -> Weights:
  """Reads a file of named tensors and says what it was.

  The format is told by the content, whatever the name of the file. Nested
  state dicts ('state_dict', 'model', 'net') and the prefix 'module.' of
  DataParallel are unwrapped.

  Args:
    path: a local .safetensors, .npz or PyTorch file (.pth, .pt, .t; zip or
      legacy format).

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is not a file of weights, is truncated, or would run
      code; nothing of it is run. Or if it holds something besides tensors
      that is not known to be left out, listing all of it.
    ImportError: if a package is missing that reading it needs, or too old.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise FileNotFoundError(
      f'There is no weights file {path}. Download it (docs/weights.md says '
      'from where), or leave the setting empty to start from random weights.'
    )
  kind = _format(path)
  readers = {'safetensors': _read_safetensors, 'npz': _read_npz}
  content = readers.get(kind, _read_torch)(path)
  if not isinstance(content, Mapping):
    raise ValueError(
      f'{path} holds a {type(content).__name__}, not tensors by name; save a '
      'state_dict.'
    )
  try:
    return Weights(kind, *plain_tensors(content))
  except ValueError as error:
    raise ValueError(f'{path} {error}') from error


def checksum(path: str | pathlib.Path) -> str:
  """The SHA-256 of a file, 64 hexadecimal digits."""
  with pathlib.Path(path).expanduser().open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def write_safetensors(tensors: Mapping[str, np.ndarray], path: pathlib.Path):
  """Writes tensors in one move: the file is whole or not there.

  Raises:
    ImportError: if the package safetensors is missing.
    OSError: if the file cannot be written.
  """
  try:
    import safetensors.numpy
  except ImportError as error:
    raise ImportError(_needs_safetensors(path)) from error
  part = path.with_name(path.name + '.part')
  # It writes memory as it lies, whatever the strides.
  contiguous = {n: np.ascontiguousarray(v) for n, v in tensors.items()}
  try:
    part.write_bytes(safetensors.numpy.save(contiguous))
    part.replace(path)
  finally:
    part.unlink(missing_ok=True)


def _format(path: pathlib.Path) -> str:
  """Tells the format by the first bytes and, of an archive, by its members."""
  with path.open('rb') as file:
    head = file.read(16)
  if head[:2] == b'PK':
    return _archive_format(path)
  if head[:1] == b'\x80':
    return 'PyTorch (legacy)'
  if head[8:9] == b'{':
    return 'safetensors'
  what = 'neither .safetensors, .npz nor PyTorch'
  if not head:
    what = 'it is empty; download it again'
  elif head.lstrip()[:1] == b'<':
    what = 'it looks like a web page; download the file itself'
  elif head.startswith(b'version https'):
    what = 'it looks like a pointer of Git LFS; run `git lfs pull`'
  raise ValueError(f'{path} is not a file of weights: {what}.')


def _archive_format(path: pathlib.Path) -> str:
  try:
    with zipfile.ZipFile(path) as archive:
      names = [name.rpartition('/')[2] for name in archive.namelist()]
  except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
    raise ValueError(
      f'{path} is not a file of weights, or is truncated ({error}); download '
      'it again.'
    ) from error
  if 'constants.pkl' in names:
    raise ValueError(
      f'{path} is a TorchScript archive, which holds code; save the '
      'state_dict alone with PyTorch.'
    )
  if 'data.pkl' in names:
    return 'PyTorch (zip)'
  if names and all(name.endswith('.npy') for name in names):
    return 'npz'
  raise ValueError(
    f'{path} is not a file of weights: a zip archive of neither NumPy nor '
    'PyTorch.'
  )


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    import safetensors
  except ImportError as error:
    raise ImportError(_needs_safetensors(path)) from error
  try:
    found = safetensors.deserialize(path.read_bytes())
    return {
      name: np.frombuffer(
        entry['data'], _SAFETENSORS_TYPES[entry['dtype']]
      ).reshape(entry['shape'])
      for name, entry in found
    }
  except KeyError as error:
    raise ValueError(f'{path} holds tensors of type {error}.') from error
  except (safetensors.SafetensorError, TypeError, ValueError) as error:
    raise ValueError(
      f'{path} is not a safetensors file of weights, or is truncated: {error}'
    ) from error


def _needs_safetensors(path: pathlib.Path) -> str:
  return (
    f"{path} needs the package safetensors: pip install 'jaxreid[convert]'."
  )


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    # Without pickle no file can run code.
    with path.open('rb') as file, np.load(file, allow_pickle=False) as archive:
      return dict(archive)
  # NumPy's parser meets arbitrary bytes here, and so may raise anything.
  except Exception as error:
    raise ValueError(
      f'{path} is not an .npz file of weights, or is truncated: {error}'
    ) from error


class _Inert:
  """Stands for a NumPy scalar or array (an accuracy) in a PyTorch file.

  Unpickling NumPy's own would let the file choose what NumPy does with bytes.
  """

  def __init__(self, *args: Any):
    del args

  def __setstate__(self, state: Any):
    del state


def _read_torch(path: pathlib.Path) -> Any:
  torch = _import_torch(path)
  names = ['ndarray', 'dtype']
  for package in ('core', '_core'):
    names += [f'{package}.multiarray.{n}' for n in ('scalar', '_reconstruct')]
  inert = [(_Inert, f'numpy.{name}') for name in names]
  try:
    with torch.serialization.safe_globals(inert):
      return torch.load(path, map_location='cpu', weights_only=True)
  # PyTorch's parser meets arbitrary bytes here, and so may raise anything.
  except Exception as error:
    text = str(error)
    wanted = re.search(r'GLOBAL (\S+)', text)
    if isinstance(error, pickle.UnpicklingError) and wanted:
      raise ValueError(
        f'{path} wants {wanted.group(1)} to be called while it is read, which '
        'weights never need; it was refused, and nothing of it was run. If '
        'it is a whole model of somebody you trust, save its state_dict() '
        'alone with PyTorch.'
      ) from None
    # PyTorch's own text would advise to load it without this protection.
    reason = text.rpartition('WeightsUnpickler error: ')[2].partition('\n')[0]
    raise ValueError(
      f'{path} is not a PyTorch file of weights, or is truncated '
      f'({type(error).__name__}: {reason[:200]}); download it again.'
    ) from None


def _import_torch(path: pathlib.Path) -> Any:
  try:
    import torch
  except ImportError as error:
    raise ImportError(
      f'{path} is a PyTorch file, and PyTorch is not installed: pip install '
      f"'torch>={_SAFE_TORCH[0]}.{_SAFE_TORCH[1]}', or convert the file where "
      f'it is: python -m jaxreid.models.pretrained convert {path} '
      f'{path.with_suffix(".safetensors")}'
    ) from error
  version = tuple(int(n) for n in torch.__version__.split('.')[:2])
  if version < _SAFE_TORCH:
    raise ImportError(
      f'{path} is not read with PyTorch {torch.__version__}: before '
      f'{_SAFE_TORCH[0]}.{_SAFE_TORCH[1]} a file can run code in spite of '
      'weights_only=True. pip install -U torch'
    )
  return torch
