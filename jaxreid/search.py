"""Searches your own pictures.

  python -m jaxreid.search index --checkpoint=WORKDIR --gallery=FOLDER \\
      --out=INDEX
  python -m jaxreid.search query --index=INDEX IMAGE... [--top=10] \\
      [--html=PAGE] [--json]

No dataset, camera or identity is needed. Whether a picture is visible or
infrared is guessed from its colours and said, unless `--modality` says it.
The first command can be repeated: what is in the index is not embedded again.
"""

import argparse
import collections
import io
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxreid import sharding
from jaxreid.embedder import Embedder
from jaxreid.image_files import (
  Picture,
  find_images,
  guess_modality,
  read_images,
)
from jaxreid.indexing import Added, add_images
from jaxreid.search_index import MODALITIES, Index
from jaxreid.search_page import Answer, make_page


def main(argv: Sequence[str] | None = None):
  """Runs the command; a mistake is one sentence and the status 1."""
  options = _parser().parse_args(argv)
  # Names of files need not be text, nor fit the terminal's encoding.
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors='backslashreplace')
  try:
    options.run(options)
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)
  except KeyboardInterrupt:
    print('stopped; the same command goes on', file=sys.stderr)
    sys.exit(130)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser('python -m jaxreid.search')
  commands = parser.add_subparsers(required=True)
  index = commands.add_parser('index', help='embed a folder of pictures')
  index.add_argument('--checkpoint', required=True, help='workdir of a run')
  index.add_argument('--gallery', required=True, help='folder of pictures')
  index.add_argument('--out', required=True, help='folder of the index')
  index.set_defaults(run=_index)
  query = commands.add_parser('query', help='find pictures in an index')
  query.add_argument('--index', required=True, help='folder of the index')
  query.add_argument('images', nargs='+', metavar='IMAGE')
  query.add_argument('--top', type=int, default=10, help='places of a list')
  query.add_argument('--among', choices=MODALITIES, help='search these alone')
  query.add_argument('--html', metavar='PAGE', help='also write a page')
  query.add_argument('--json', action='store_true', help='print JSON')
  query.add_argument(
    '--checkpoint', help='workdir, if it is not where it was indexed from'
  )
  query.set_defaults(run=_query)
  for command in (index, query):
    command.add_argument(
      '--modality', choices=MODALITIES, help='of the pictures; else guessed'
    )
  return parser


def _index(options: argparse.Namespace):
  paths = find_images(options.gallery)
  embedder = Embedder(options.checkpoint)
  index = Index.open(options.out, embedder)
  added = add_images(index, paths, embedder, options.modality)
  _say_added(added, options.modality)
  if not len(index):
    raise ValueError(f'no image of {options.gallery} could be read')
  print(f'{index.folder} holds {len(index):,} images')


def _say_added(added: Added, modality: str | None):
  print(
    f'{added.embedded:,} images embedded, {added.copied:,} known by their '
    f'bytes, {added.known:,} unchanged'
  )
  if modality is None and added.embedded + added.copied:
    counts = ', '.join(f'{n:,} {m}' for m, n in added.modalities.items())
    print(f'guessed from their colours: {counts}; --modality says it')
  _say_failures(added.failures)


def _say_failures(failures: Sequence[tuple[str, str]], file: Any = None):
  if failures:
    print(f'{len(failures)} could not be read and are left out:', file=file)
    for path, reason in failures:
      print(f'  {path}: {reason}', file=file)


def _query(options: argparse.Namespace):
  if options.top < 1:
    raise ValueError(f'--top must be at least 1, not {options.top}')
  index = Index.read(options.index)
  if not len(index):
    raise ValueError(f'{index.folder} holds no images yet; index some first')
  made_by = index.about['checkpoint']
  if not options.checkpoint and not pathlib.Path(made_by).exists():
    raise ValueError(
      f'{index.folder} was made by the checkpoint of {made_by}, which is not '
      'there any more; say where it is by --checkpoint=WORKDIR'
    )
  embedder = Embedder(options.checkpoint or made_by)
  index.check(embedder)
  paths = [str(pathlib.Path(p).expanduser().absolute()) for p in options.images]
  pictures, failures = read_images(paths, embedder.image_size)
  if not pictures:
    _say_failures(failures, sys.stderr)
    raise ValueError('none of the images could be read')
  answers = _answer(pictures, index, embedder, options)
  if options.html:
    page = make_page(answers, f'Found in {index.folder.name}')
    pathlib.Path(options.html).write_text(page, 'utf-8', 'backslashreplace')
  if options.json:
    print(json.dumps(_as_json(index, answers, failures), indent=2))
  else:
    _print(answers)
    _say_failures(failures)
    if options.html:
      print(f'written to {options.html}')


def _answer(
  pictures: Sequence[Picture],
  index: Index,
  embedder: Embedder,
  options: argparse.Namespace,
) -> list[Answer]:
  """The lists of all queries, those of one modality in one search."""
  groups = collections.defaultdict(list)
  for i, picture in enumerate(pictures):
    groups[options.modality or guess_modality(picture.pixels)].append(i)
  answers: dict[int, Answer] = {}
  mesh = sharding.make_mesh()
  for modality, members in groups.items():
    vectors = embedder(
      np.stack([pictures[i].pixels for i in members]), modality
    )
    lists = index.search(vectors, mesh, options.top, options.among)
    for i, found in zip(members, lists, strict=True):
      guessed = options.modality is None
      answers[i] = Answer(pictures[i].path, modality, guessed, found)
  return [answers[i] for i in range(len(pictures))]


def _print(answers: Sequence[Answer]):
  for answer in answers:
    how = ', guessed from its colours' if answer.guessed else ''
    print(f'{answer.path} ({answer.modality}{how})')
    if not answer.found:
      print('  the index holds nothing to search among')
    for place, (distance, entry) in enumerate(answer.found, 1):
      print(f'{place:4d}  {distance:.4f}  {entry.path}')


def _as_json(
  index: Index,
  answers: Sequence[Answer],
  failures: Sequence[tuple[str, str]],
) -> dict[str, Any]:
  return {
    'index': str(index.folder),
    'queries': [
      {
        'path': answer.path,
        'modality': answer.modality,
        'guessed': answer.guessed,
        'results': [
          {
            'path': entry.path,
            'distance': distance,
            'modality': entry.modality,
          }
          for distance, entry in answer.found
        ],
      }
      for answer in answers
    ],
    'unreadable': [{'path': p, 'reason': reason} for p, reason in failures],
  }


if __name__ == '__main__':
  main()
