"""Counts a dataset, and compares the counts with the published ones.

Synopsis:

  found = count(rows, validation)      {'train visible images': 22258, ...}
  print(table(expected, found))

A label is a group ('train', 'test', 'all', and where a dataset has validation
identities 'train_id' and 'val_id'), then nothing, a modality or a camera, then
'images' or 'identities': 'test camera 3 images'.
"""

import collections
from collections.abc import Collection, Iterable, Mapping

from tfds_builders import records


def count(
  rows: Iterable[tuple[str, int, int, int]], validation: Collection[int] = ()
) -> dict[str, int]:
  """Counts the images and identities of every group.

  Args:
    rows: (split, identity, camera, modality) of each record; modality is the
      place in `records.MODALITIES`.
    validation: identities of `train` that are kept apart.
  """
  images: collections.Counter = collections.Counter()
  people = collections.defaultdict(set)
  chosen = frozenset(validation)
  for split, identity, camera, modality in rows:
    groups = [split, 'all']
    if chosen and split == 'train':
      groups.append('val_id' if identity in chosen else 'train_id')
    places = ('', f'{records.MODALITIES[modality]} ', f'camera {camera} ')
    for group in groups:
      for place in places:
        images[f'{group} {place}images'] += 1
        people[f'{group} {place}identities'].add(identity)
  return {**images, **{label: len(found) for label, found in people.items()}}


def table(expected: Mapping[str, int], found: Mapping[str, int]) -> str:
  """Returns a line for each expected figure, and a warning if one differs."""
  width = max(map(len, expected))
  lines = [f'{"":{width}}  expected     found']
  differing = 0
  for label, figure in expected.items():
    got = found.get(label, 0)
    differing += got != figure
    mark = '' if got == figure else '  <- differs'
    lines.append(f'{label:{width}}  {figure:8,}  {got:8,}{mark}')
  if differing:
    lines.append(
      f'warning: {differing} of {len(expected)} figures differ from the '
      'published ones; results will not compare with published results'
    )
  return '\n'.join(lines)
