"""From what a training script saved to tensors by name.

Synopsis:

  tensors, types, notes = plain_tensors({'net': state_dict, 'epoch': 80})
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

_WRAPPERS = ('state_dict', 'model', 'net')
# What training scripts save beside the weights.
_BOOKKEEPING = (
  'acc',
  'amp',
  'best_acc',
  'epoch',
  'lr_scheduler',
  'mAP',
  'mINP',
  'optimizer',
  'scaler',
  'scheduler',
)


def plain_tensors(
  content: Mapping[Any, Any],
) -> tuple[dict[str, np.ndarray], dict[str, int], tuple[str, ...]]:
  """Unwraps nested state dicts and turns tensors into arrays.

  Args:
    content: name -> NumPy array, PyTorch tensor, or whatever else was saved.

  Returns:
    The arrays by name, half precision as float32; how many there were of each
    type; and a note on everything that was unwrapped or left out.

  Raises:
    ValueError: listing everything that is neither a tensor nor known to be a
      training script's bookkeeping. The text goes on from the file's name.
  """
  notes: list[str] = []
  content = _without_prefix(_innermost(content, notes), notes)
  tensors, types = _tensors(content, notes)
  return tensors, types, tuple(notes)


def _innermost(
  content: Mapping[Any, Any], notes: list[str]
) -> Mapping[Any, Any]:
  """Goes into 'state_dict', 'model' or 'net' as long as there is one."""
  while wrappers := [
    name for name in _WRAPPERS if isinstance(content.get(name), Mapping)
  ]:
    wrapper, *others = wrappers
    beside = [name for name in content if name != wrapper]
    stray = others + [
      name
      for name in beside
      if name not in _BOOKKEEPING
      and name not in others
      and _holds_arrays(content[name])
    ]
    if stray:
      raise ValueError(
        f"holds '{wrapper}' and, beside it, more tensors in "
        f'{", ".join(map(repr, stray))}; save the ones you mean alone.'
      )
    note = f"unwrapped '{wrapper}'"
    if beside:
      note += f'; left out beside it: {", ".join(map(str, beside))}'
    notes.append(note)
    content = content[wrapper]
  return content


def _without_prefix(
  content: Mapping[Any, Any], notes: list[str]
) -> Mapping[Any, Any]:
  prefix = 'module.'
  if not content or not all(str(n).startswith(prefix) for n in content):
    return content
  notes.append(f"took the prefix '{prefix}' of DataParallel off all names")
  return {name.removeprefix(prefix): v for name, v in content.items()}


def _tensors(
  content: Mapping[Any, Any], notes: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
  """The arrays, and how many there were of each type."""
  tensors, types, problems = {}, Counter[str](), []
  for name, value in content.items():
    if not _is_array(value) and name in _BOOKKEEPING:
      notes.append(f"left out '{name}', which is no tensor")
      continue
    try:
      tensors[name], kind = _to_numpy(value)
      types[kind] += 1
    except (TypeError, RuntimeError) as error:
      problems.append(f'{name}: {str(error).partition(chr(10))[0]}')
  problems += [f'{n!r}: not a name' for n in content if not isinstance(n, str)]
  if problems:
    raise ValueError(
      f'holds what is no plain tensor ({len(problems)} entries):\n  '
      + '\n  '.join(problems)
    )
  if not tensors:
    raise ValueError('holds no tensors.')
  return tensors, dict(types)


def _to_numpy(value: Any) -> tuple[np.ndarray, str]:
  """An array, half precision as float32, and its type before that."""
  if not _is_array(value):
    raise TypeError(f'a {type(value).__name__}')
  kind = str(value.dtype).removeprefix('torch.')
  half = kind in ('float16', 'bfloat16')
  if not isinstance(value, np.ndarray):
    value = value.detach()
    value = (value.float() if half else value).numpy()
  elif half:
    value = value.astype(np.float32)
  if value.dtype.kind not in 'fiub':
    raise TypeError(f'of type {kind}')
  return value, kind


def _is_array(value: Any) -> bool:
  """Whether it is NumPy's or PyTorch's, told without importing PyTorch."""
  return isinstance(value, np.ndarray) or hasattr(value, 'detach')


def _holds_arrays(value: Any) -> bool:
  if isinstance(value, Mapping):
    return any(map(_holds_arrays, value.values()))
  if isinstance(value, list | tuple):
    return any(map(_holds_arrays, value))
  return _is_array(value)
