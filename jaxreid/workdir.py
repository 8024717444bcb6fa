"""The folder of a run: whose it is, and files that are whole or not there.

Synopsis:

  folder = open_workdir(path, config)        # refuses another config's run
  claim(folder, config, fingerprint)         # ... and another dataset's
  replace_text(folder / 'results.md', text)
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

CONFIG = 'config.json'
DATA = 'data.json'
# Fields that may differ between starts of one run: they change no training,
# and results name what they change there.
FREE_TO_CHANGE = ('dataset.data_dir', 'profile_steps', 'evaluation')
_LEAK = (
  '; a trial tests people whom the models of other trials were trained on, so '
  'each trial needs its own model, or trial=all'
)


def open_workdir(
  path: str | os.PathLike,
  config: ml_collections.ConfigDict,
  exists: bool = False,
) -> pathlib.Path:
  """The folder, made if it is not there.

  Args:
    path: of the folder.
    config: of the run.
    exists: whether the folder must hold a run already.

  Raises:
    ValueError: if it cannot be written, or belongs to a run of another config.
  """
  folder = pathlib.Path(path).expanduser().absolute()
  saved = folder / CONFIG
  if exists and not saved.exists():
    raise ValueError(f'{folder} holds no run to evaluate; train there first')
  _make_writable(folder)
  if saved.exists():
    _check_same_config(config, saved)
  return folder


def claim(
  folder: pathlib.Path,
  config: ml_collections.ConfigDict,
  fingerprint: str,
):
  """Marks the folder as that of this config on this data.

  Raises:
    ValueError: if the run there was made on other pixels.
  """
  data = folder / DATA
  if data.exists():
    before = _read(data).get('fingerprint')
    if before != fingerprint:
      raise ValueError(
        f'{folder} holds a run on other pixels of {config.dataset.name} '
        f'(fingerprint {before}, now {fingerprint}); give another --workdir, '
        'or the dataset.data_dir that it was trained on'
      )
  if jax.process_index() == 0:
    replace_text(data, json.dumps({'fingerprint': fingerprint}) + '\n')
    replace_text(folder / CONFIG, to_json(config))


def read_config(folder: pathlib.Path) -> ml_collections.ConfigDict:
  """The config of the run in a folder.

  Raises:
    ValueError: if it holds no run.
  """
  try:
    return ml_collections.ConfigDict(json.loads((folder / CONFIG).read_text()))
  except (OSError, ValueError) as error:
    raise ValueError(
      f'{folder} holds no run: {CONFIG} cannot be read ({error}); give the '
      '--workdir of a run of jaxreid.main'
    ) from error


def replace_text(path: pathlib.Path, text: str):
  """Writes a file in one move: a kill leaves the old one or the new one."""
  part = path.with_name(path.name + '.part')
  part.write_text(text)
  part.replace(path)


def to_json(config: ml_collections.ConfigDict) -> str:
  """The config as it is kept in the folder."""
  return json.dumps(config.to_dict(), indent=2, sort_keys=True) + '\n'


def _make_writable(folder: pathlib.Path):
  try:
    folder.mkdir(parents=True, exist_ok=True)
    reason = 'no permission' if not os.access(folder, os.W_OK) else ''
  except OSError as error:
    reason = f'{error.strerror}: {error.filename}'
  if reason:
    raise ValueError(
      f'the workdir {folder} cannot be written ({reason}); give another '
      '--workdir'
    )


def _check_same_config(config: ml_collections.ConfigDict, saved: pathlib.Path):
  old = _flatten(_read(saved))
  new = _flatten(json.loads(to_json(config)))
  different = sorted(
    name
    for name in old.keys() | new.keys()
    if old.get(name) != new.get(name)
    and not _is_free(name)
    # A field that is younger than the run, and switched off.
    and (name in old or new[name])
  )
  if different:
    changes = ', '.join(
      f'{name} {old.get(name)!r} -> {new.get(name)!r}' for name in different
    )
    regdb = new.get('dataset.layout') == 'regdb'
    why = _LEAK if regdb and 'dataset.config' in different else ''
    raise ValueError(
      f'{saved.parent} holds a run of another config ({changes}){why}; give '
      'another --workdir, or the same config to go on'
    )


def _is_free(name: str) -> bool:
  return any(f'{name}.'.startswith(f'{free}.') for free in FREE_TO_CHANGE)


def _read(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise ValueError(
      f'{path} cannot be read ({error}); give another --workdir, or delete '
      'the file if you know that the folder is this run'
    ) from error


def _flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  flat: dict[str, Any] = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      flat.update(_flatten(value, f'{prefix}{name}.'))
    else:
      flat[prefix + name] = value
  return flat
