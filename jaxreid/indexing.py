"""Pictures into an index: each is embedded once.

Synopsis:

  index = Index.open('people', embedder)
  added = add_images(index, find_images('pictures'), embedder)
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tqdm

from jaxreid.embedder import Embedder
from jaxreid.image_files import Picture, guess_modality, read_images
from jaxreid.search_index import MODALITIES, Entry, Index, Part

_PART = 8192  # images at most that are written together
_BATCH = 256  # images that are read together


class Added(NamedTuple):
  """What `add_images` did.

  Attributes:
    embedded: images that passed the network.
    copied: images whose vectors were there under another path.
    known: images that were there unchanged.
    modalities: of the embedded and copied ones, modality -> number.
    failures: (path, reason) of what could not be read.
  """

  embedded: int
  copied: int
  known: int
  modalities: dict[str, int]
  failures: list[tuple[str, str]]


def add_images(
  index: Index,
  paths: Sequence[str],
  embedder: Embedder,
  modality: str | None = None,
) -> Added:
  """Embeds what is not in the index yet, with a progress bar.

  A file of the same path, size and time is not read again; one of the same
  bytes as a picture that is there is not embedded again. A file that changed
  takes the place of what it was.

  Args:
    index: grows, on disk too.
    paths: absolute, of image files.
    embedder: the network of this index.
    modality: of all of them; None to guess it of each by its colours.

  Raises:
    ValueError: if the network is another.
  """
  index.check(embedder)
  there = {entry.path: entry for _, _, entry in index.current()}
  new = [p for p in paths if not _unchanged(p, there.get(p), modality)]
  work = _Work(index, embedder)
  with tqdm.tqdm(total=len(new), desc='embed', unit='image') as bar:
    for start in range(0, len(new), _BATCH):
      chosen = new[start : start + _BATCH]
      pictures, failures = read_images(chosen, embedder.image_size)
      work.failures += failures
      work.take(pictures, modality)
      bar.update(len(chosen))
  work.write()
  return Added(
    work.embedded,
    work.copied,
    len(paths) - len(new),
    work.modalities,
    work.failures,
  )


class _Work:
  """Pictures on their way into an index."""

  def __init__(self, index: Index, embedder: Embedder):
    self._index, self._embedder = index, embedder
    self.failures: list[tuple[str, str]] = []
    self.embedded = self.copied = 0
    self.modalities = dict.fromkeys(MODALITIES, 0)
    # (bytes, modality) -> vectors that hold those of the picture, and where.
    self._known = {
      (entry.sha256, entry.modality): (index.parts[number].features, row)
      for number, row, entry in index.current()
    }
    self._waiting: dict[str, list[tuple[Entry, np.ndarray]]] = {
      modality: [] for modality in MODALITIES
    }

  def take(self, pictures: list[Picture], modality: str | None):
    """Embeds what is unknown; writes a part when enough has come together."""
    chosen = [modality or guess_modality(p.pixels) for p in pictures]
    for name in MODALITIES:
      mine = [p for p, m in zip(pictures, chosen, strict=True) if m == name]
      fresh = {
        p.sha256: p.pixels for p in mine if (p.sha256, name) not in self._known
      }
      if fresh:
        vectors = self._embedder([*fresh.values()], name)
        for row, digest in enumerate(fresh):
          self._known[digest, name] = (vectors, row)
      self.embedded += len(fresh)
      self.copied += len(mine) - len(fresh)
      self.modalities[name] += len(mine)
      for p in mine:
        vectors, row = self._known[p.sha256, name]
        entry = Entry(p.path, p.size, p.modified, p.sha256, name)
        self._waiting[name].append((entry, vectors[row]))
      # The next batch may be of this modality alone.
      if len(self._waiting[name]) + _BATCH > _PART:
        self.write()

  def write(self):
    """Writes what waits."""
    for name, waiting in self._waiting.items():
      if waiting:
        entries, vectors = zip(*waiting, strict=True)
        self._index.append(Part(name, [*entries], np.stack(vectors)))
        waiting.clear()
        # From here on read from the disk: memory does not grow.
        on_disk = self._index.parts[-1].features
        for row, entry in enumerate(entries):
          self._known[entry.sha256, name] = (on_disk, row)


def _unchanged(path: str, entry: Entry | None, modality: str | None) -> bool:
  if entry is None or modality not in (None, entry.modality):
    return False
  try:
    status = os.stat(path)
  except OSError:
    return False  # reading it says why
  return (status.st_size, status.st_mtime_ns) == (entry.size, entry.modified)
