"""Prepares a dataset: renders or converts it once, then hands out its folder.

    folder = prepare('synthetic_reid')              pathlib.Path
    folder = prepare('sysu_mm01', manual_dir='/data/SYSU-MM01')
    python -m tfds_builders.prepare regdb --config=all --manual_dir=/data/RegDB

Reading needs neither this package nor TensorFlow:

    builder = tfds.builder_from_directory(folder)
    source = builder.as_data_source(
        'train', decoders={'image': tfds.decode.SkipDecoding()})
"""

import argparse
import contextlib
import importlib
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import tensorflow_datasets as tfds

from tfds_builders import counts, permutations, raw
from tfds_builders.folder import (
  FINGERPRINT,
  build,
  largest_frames,
  locked,
  read_fingerprint,
  read_metadata,
)
from tfds_builders.permutations import read as read_permutations

__all__ = [
  'FINGERPRINT',
  'prepare',
  'read_fingerprint',
  'read_metadata',
  'read_permutations',
]

RENDERED = ('synthetic_reid',)
# Made from a folder that the user has been given by the authors.
GATED = ('sysu_mm01', 'regdb', 'npu_reid')
DATASETS = RENDERED + GATED


def prepare(
  name: str,
  data_dir: str | os.PathLike | None = None,
  config: str | None = None,
  manual_dir: str | os.PathLike | None = None,
  skip_corrupt: bool = False,
) -> pathlib.Path:
  """Returns the folder of a prepared dataset, preparing it when it is absent.

  Two processes may call this at once: one prepares, the other waits. A build
  that is killed leaves nothing that could be taken for a dataset, and the next
  call removes what it left.

  Args:
    name: such as 'synthetic_reid'.
    data_dir: parent of all datasets; $TFDS_DATA_DIR or ~/tensorflow_datasets
      by default.
    config: a config of the builder; its first one by default.
    manual_dir: the raw folder of a dataset that is not rendered. It is checked
      as a whole before anything is written. If the dataset is prepared, only
      the published permutations are taken from it, where they are missing.
    skip_corrupt: leaves out images that cannot be used, and notes them in
      metadata.json and in the fingerprint's file.

  Returns:
    The version folder, to be opened with `tfds.builder_from_directory`.

  Raises:
    ValueError: unknown dataset or config; no raw folder; everything that is
      wrong with its layout, or with its images.
  """
  return _prepare(name, [config], data_dir, manual_dir, skip_corrupt)[0]


def _prepare(
  name: str,
  configs: Sequence[str | None],
  data_dir: str | os.PathLike | None,
  manual_dir: str | os.PathLike | None,
  skip_corrupt: bool,
) -> list[pathlib.Path]:
  """Prepares several configs of one raw folder, whose images are read once."""
  parent = _data_dir(data_dir)
  module = _module(name)
  builders = [_builder(module, name, parent, config) for config in configs]
  if manual_dir is not None and name in RENDERED:
    raise ValueError(f"'{name}' is rendered: it takes no --manual_dir.")
  absent = [b for b in builders if not _is_built(b)]
  if absent and name in GATED:
    if manual_dir is None:
      raise ValueError(_how_to_get(absent[0], name, data_dir))
    _find(module, absent, manual_dir, skip_corrupt)
  for builder in builders:
    with _builder_lock(builder, parent):
      build(builder, parent)
      if builder not in absent and manual_dir is not None:
        _add_permutations(builder, manual_dir)
  return [pathlib.Path(builder.data_path) for builder in builders]


def _find(
  module: ModuleType,
  builders: Sequence[tfds.core.DatasetBuilder],
  manual_dir: str | os.PathLike,
  skip_corrupt: bool,
):
  """Finds and checks the images of all builders; sets their `found`."""
  founds, errors = [], []
  for builder in builders:
    try:
      founds.append(module.find(manual_dir, _config_name(builder)))
    except ValueError as error:
      errors += str(error).splitlines()
  if errors:
    raise ValueError('\n'.join(dict.fromkeys(errors)))
  items = {item.path: item for found in founds for item in found.items}
  faults, duplicates = raw.check(list(items.values()), module.FORMATS)
  if faults and not skip_corrupt:
    lines = [f'{fault.path}: {fault.reason}' for fault in faults]
    raise ValueError(
      f'{len(faults)} of {len(items)} images in {founds[0].root} cannot be '
      'used. Get them again, or leave them out with --skip_corrupt:\n  '
      + '\n  '.join(lines)
    )
  for builder, found in zip(builders, founds, strict=True):
    builder.found = raw.without(found, faults, duplicates)


def _add_permutations(
  builder: tfds.core.DatasetBuilder, manual_dir: str | os.PathLike
):
  """Adds published permutations that came after the images."""
  folder = pathlib.Path(builder.data_path)
  # The file of SYSU-MM01 may lie in a folder beside another set's.
  ours = builder.name == 'sysu_mm01'
  mat = permutations.find_file(manual_dir) if ours else None
  if mat is None or (folder / permutations.FILE).exists():
    _say(
      f'{folder} is prepared already; nothing was read from {manual_dir}. To '
      'prepare it again, delete it first.'
    )
    return
  problems: list[str] = []
  found = permutations.read_mat(
    mat, largest_frames(folder), problems, exact=False
  )
  if problems:
    raise ValueError('\n'.join(problems))
  permutations.write(folder, found)
  _say(f'{folder} is prepared already; added the permutations of {mat}.')


def _how_to_get(
  builder: tfds.core.DatasetBuilder,
  name: str,
  data_dir: str | os.PathLike | None,
) -> str:
  flags = f' --config={_config_name(builder)}' if _config_name(builder) else ''
  flags += f' --data_dir={data_dir}' if data_dir else ''
  return (
    f"'{name}' is not prepared: there is no {builder.data_path}. "
    f'{builder.MANUAL_DOWNLOAD_INSTRUCTIONS} Then run: python -m '
    f'tfds_builders.prepare {name} --manual_dir=FOLDER{flags}'
    + (' (--config=all for the ten trials)' if name == 'regdb' else '')
  )


def _data_dir(data_dir: str | os.PathLike | None) -> pathlib.Path:
  chosen = (
    data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  )
  return pathlib.Path(chosen).expanduser().resolve()


def _module(name: str) -> ModuleType:
  if name not in DATASETS:
    raise ValueError(
      f"There is no dataset '{name}': choose one of {', '.join(DATASETS)}."
    )
  return importlib.import_module(f'tfds_builders.{name}.{name}_dataset_builder')


def _builder(
  module: ModuleType, name: str, parent: pathlib.Path, config: str | None
) -> Any:
  configs = [c.name for c in module.Builder.BUILDER_CONFIGS]
  if config is not None and config not in configs:
    known = ', '.join(configs)
    advice = f'choose one of {known}' if configs else 'leave it out'
    raise ValueError(f"'{name}' has no config '{config}': {advice}.")
  return module.Builder(
    config=config, data_dir=parent, file_format='array_record'
  )


def _config_name(builder: tfds.core.DatasetBuilder) -> str:
  return builder.builder_config.name if builder.builder_config else ''


def _is_built(builder: tfds.core.DatasetBuilder) -> bool:
  # What has no fingerprint yet still lacks nothing that the raw folder has.
  return (pathlib.Path(builder.data_path) / 'dataset_info.json').exists()


@contextlib.contextmanager
def _builder_lock(
  builder: tfds.core.DatasetBuilder, parent: pathlib.Path
) -> Iterator[None]:
  # Opening a prepared set must work in a folder that cannot be written.
  if (pathlib.Path(builder.data_path) / FINGERPRINT).exists():
    yield
    return
  config = _config_name(builder)
  stem = f'{builder.name}.{config}' if config else builder.name
  with locked(parent / f'.{stem}.lock'):
    yield


def _say(sentence: str):
  print(sentence, file=sys.stderr)


def _report(module: ModuleType, config: str, folder: pathlib.Path) -> str:
  """Returns the counts, and what was left out or occurs twice."""
  fingerprint, metadata = read_fingerprint(folder), read_metadata(folder)
  found = {**metadata.get('on_disk', {}), **fingerprint.get('counts', {})}
  lines = [counts.table(module.expected_counts(config), found)]
  left_out = metadata.get('left_out', ())
  if left_out:
    lines.append(f'warning: {len(left_out)} images were left out:')
    lines += [f'  {each["path"]}: {each["reason"]}' for each in left_out]
  for identity in metadata.get('identities_left_out', ()):
    lines.append(f'warning: no image of identity {identity} is left')
  for group in metadata.get('duplicates', ()):
    people = sorted({each['identity'] for each in group})
    numbers = ', '.join(map(str, people))
    whose = f'the identit{"y" if len(people) == 1 else "ies"} {numbers}'
    lines.append(f'warning: {len(group)} identical files of {whose}:')
    lines += [f'  {each["path"]}' for each in group]
  if (folder / permutations.FILE).exists():
    lines.append(f'published permutations: {permutations.FILE}')
  lines.append(f'folder: {folder}')
  lines.append(f'fingerprint: {fingerprint["sha256"]}')
  return '\n'.join(lines)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m tfds_builders.prepare', description='Prepare a dataset.'
  )
  add = parser.add_argument
  add('name', help=f'one of {", ".join(DATASETS)}')
  add('--config', help='such as small, or for regdb trial_3 or all')
  add('--manual_dir', help='the raw folder, of sets that are not rendered')
  add('--data_dir', help='default: $TFDS_DATA_DIR or ~/tensorflow_datasets')
  add(
    '--skip_corrupt',
    action='store_true',
    help='leave out images that cannot be used, and note them',
  )
  return parser


def main(arguments: Sequence[str] | None = None):
  """Prepares a dataset from the command line and says what it holds."""
  options = _parser().parse_args(arguments)
  started = time.perf_counter()
  try:
    module = _module(options.name)
    configs = [options.config]
    if options.name == 'regdb' and options.config == 'all':
      configs = [c.name for c in module.Builder.BUILDER_CONFIGS]
    folders = _prepare(
      options.name,
      configs,
      options.data_dir,
      options.manual_dir,
      options.skip_corrupt,
    )
  except ValueError as error:
    sys.exit(str(error))
  except OSError as error:
    sys.exit(f'{error}; nothing half-made is kept')
  except KeyboardInterrupt:
    sys.exit('interrupted; nothing half-made is kept')
  for folder in folders:
    # DATA_DIR/NAME/CONFIG/VERSION, or without CONFIG
    config = folder.parent.name if folder.parent.name != options.name else ''
    print(_report(module, config, folder))
  print(f'time: {time.perf_counter() - started:.1f} s')


if __name__ == '__main__':
  main()
