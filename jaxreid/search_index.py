"""Embedded pictures in a folder, to be searched and added to.

Synopsis:

  index = Index.open('people', embedder)       # new, or that of this network
  add_images(index, find_images('pictures'), embedder)  # jaxreid.indexing
  found = index.search(vectors, mesh, k=10)

A folder holds index.json, and for every part that was added and each modality
a file of vectors and one of their origins. A kill loses the part that was
being made; the same command then goes on.
"""

import bisect
import itertools
import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from jaxreid.embedder import Embedder
from jaxreid.evaluation.nearest import Blocks, nearest
from jaxreid.workdir import replace_text

FILE = 'index.json'
_HALF = f'{FILE}.part'  # of a command that was killed as it began
FORMAT = 1
MODALITIES = ('visible', 'infrared')


class Entry(NamedTuple):
  """Where vectors come from.

  Attributes:
    path: of the file.
    size: bytes.
    modified: nanoseconds.
    sha256: of the bytes.
    modality: 'visible' or 'infrared'.
  """

  path: str
  size: int
  modified: int
  sha256: str
  modality: str


class Part(NamedTuple):
  """Pictures of one modality that were added together.

  Attributes:
    modality: 'visible' or 'infrared'.
    entries: [N] their origins.
    features: [N, M, D] their vectors, memory-mapped.
  """

  modality: str
  entries: list[Entry]
  features: Float[np.ndarray, 'n m d']


class Found(NamedTuple):
  """One place of a ranked list.

  Attributes:
    distance: the mean over pairs of vectors, so that galleries of both
      modalities can be ranked together (for one modality it ranks as Eq. 2 of
      the XIV paper does, whose sum is the mean times the number of pairs).
    entry: what was found.
  """

  distance: float
  entry: Entry


class Index:
  """Vectors of many pictures, all by one network."""

  def __init__(self, folder: pathlib.Path, about: dict[str, Any]):
    """Use `Index.open` or `Index.read`."""
    self.folder = folder
    self.about = about
    self.parts = [self._load(part) for part in about['parts']]

  @classmethod
  def read(cls, folder: str | os.PathLike[str]) -> 'Index':
    """An index that exists.

    Raises:
      ValueError: if there is none.
    """
    where = pathlib.Path(folder).expanduser().absolute()
    try:
      about = json.loads((where / FILE).read_text())
    except (OSError, ValueError) as error:
      raise ValueError(
        f'{where} holds no index ({error}); make one with python -m '
        'jaxreid.search index --checkpoint=WORKDIR --gallery=FOLDER '
        f'--out={folder}'
      ) from error
    if about.get('format') != FORMAT:
      raise ValueError(
        f'{where} is of format {about.get("format")}, this version reads '
        f'{FORMAT}; make it anew'
      )
    return cls(where, about)

  @classmethod
  def open(cls, folder: str | os.PathLike[str], embedder: Embedder) -> 'Index':
    """The index in a folder, or a new one there.

    Raises:
      ValueError: if it was made by another checkpoint, or the folder is in
        other use.
    """
    where = pathlib.Path(folder).expanduser().absolute()
    if (where / FILE).exists():
      index = cls.read(where)
      index.check(embedder)
      if not os.path.exists(index.about['checkpoint']):
        index.about['checkpoint'] = str(embedder.workdir)  # it was moved
        index._save()
      return index
    if where.exists() and (
      not where.is_dir() or {p.name for p in where.iterdir()} - {_HALF}
    ):
      raise ValueError(f'{where} holds other files; give a new folder as --out')
    where.mkdir(parents=True, exist_ok=True)
    about = {
      'format': FORMAT,
      'checkpoint': str(embedder.workdir),
      'identity': embedder.identity,
      'distance': embedder.test_distance,
      'parts': [],
    }
    index = cls(where, about)
    index._save()  # a kill before the first part leaves an index
    return index

  def check(self, embedder: Embedder):
    """Refuses a network whose vectors do not compare with those here.

    Raises:
      ValueError: naming both.
    """
    if embedder.identity != self.about['identity']:
      raise ValueError(
        f'{self.folder} was made by the checkpoint of '
        f'{self.about["checkpoint"]} as it was then '
        f'({self.about["identity"][:12]}), not by that of {embedder.workdir} '
        f'({embedder.identity[:12]}); vectors of different networks do not '
        'compare: make a new index, or give the old checkpoint'
      )

  def __len__(self) -> int:
    """Pictures that can be found."""
    return len(self.current())

  def search(
    self,
    query: Float[np.ndarray, 'q m d'],
    mesh: Mesh,
    k: int = 10,
    among: str | None = None,
  ) -> list[list[Found]]:
    """The nearest pictures of each query.

    Args:
      query: vectors by the network of this index, of one modality.
      mesh: the devices to search with.
      k: places of each list.
      among: 'visible' or 'infrared' for a search among these alone.
    """
    kind = 'plain' if self.about['distance'] == 'plain' else 'mean'
    blocks, starts = [], []
    shown: list[set[int]] = [set() for _ in self.parts]
    current = self.current()
    for number, row, _ in current:
      shown[number].add(row)
    k = min(k, max(len(current), 1))
    start = 0
    for part, rows in zip(self.parts, shown, strict=True):
      starts.append(start)
      if rows and among in (None, part.modality):
        valid = np.isin(np.arange(len(part.entries)), [*rows])
        blocks.append(Blocks(part.features, mesh, valid=valid, start=start))
      start += len(part.entries)
    distances, places = nearest(query, itertools.chain(*blocks), k, kind)
    return [
      [self._found(d, r, starts) for d, r in zip(*both, strict=True) if r >= 0]
      for both in zip(distances.tolist(), places.tolist(), strict=True)
    ]

  def _found(self, distance: float, row: int, starts: list[int]) -> Found:
    number = bisect.bisect_right(starts, row) - 1
    return Found(distance, self.parts[number].entries[row - starts[number]])

  def current(self) -> list[tuple[int, int, Entry]]:
    """(part, row, entry) of what can be found: the latest of each path."""
    latest = {
      entry.path: (number, row, entry)
      for number, part in enumerate(self.parts)
      for row, entry in enumerate(part.entries)
    }
    return sorted(latest.values())

  def _load(self, part: dict[str, Any]) -> 'Part':
    try:
      lines = (self.folder / f'{part["name"]}.jsonl').read_text().splitlines()
      entries = [Entry(**json.loads(line)) for line in lines]
      features = np.load(self.folder / f'{part["name"]}.npy', mmap_mode='r')
      if len(entries) != len(features):
        raise ValueError(f'{len(entries)} origins of {len(features)} vectors')
    except (OSError, ValueError, TypeError, EOFError) as error:
      raise ValueError(
        f'the part {part["name"]} of {self.folder} is damaged ({error}); '
        'delete the index and make it anew'
      ) from error
    return Part(part['modality'], entries, features)

  def append(self, part: 'Part'):
    """Writes a part, then the list of parts that makes it count.

    Raises:
      ValueError: if another command has added to the index meanwhile.
    """
    now = json.loads((self.folder / FILE).read_text())
    if now['parts'] != self.about['parts']:
      raise ValueError(
        f'another command adds to {self.folder}; repeat this one when it has '
        'ended'
      )
    name = f'part{len(self.about["parts"]):05d}-{part.modality}'
    lines = [json.dumps(entry._asdict()) for entry in part.entries]
    replace_text(self.folder / f'{name}.jsonl', '\n'.join(lines) + '\n')
    np.save(self.folder / f'{name}.npy', part.features)
    about = {'name': name, 'modality': part.modality}
    self.about['parts'].append(about)
    self._save()
    self.parts.append(self._load(about))

  def _save(self):
    replace_text(self.folder / FILE, json.dumps(self.about, indent=2) + '\n')
