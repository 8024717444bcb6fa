"""`synthetic_reid`: a rendered miniature of visible-infrared person re-ID.

    path = tfds_builders.prepare.prepare('synthetic_reid', config='small')

An identity is seen by six cameras laid out as in SYSU-MM01. Identities of
`train` and `test` are other people; `small` is a part of `full`.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from tqdm import tqdm

from tfds_builders import counts, records
from tfds_builders.synthetic_reid.cameras import CAMERAS
from tfds_builders.synthetic_reid.workers import Task, render_all

SEED = 0
FIRST_TEST_IDENTITY = 501


@dataclasses.dataclass(eq=False)
class Config(tfds.core.BuilderConfig):
  """Size of the rendered set.

  Attributes:
    train_identities: numbered from 1.
    test_identities: numbered from `FIRST_TEST_IDENTITY`.
    train_frames: images of an identity per visible and per infrared camera.
    test_frames: images of an identity per camera.
    workers: rendering processes, None for one per core; any number gives the
      same bytes.
  """

  train_identities: int = 0
  test_identities: int = 0
  train_frames: tuple[int, int] = (10, 10)
  test_frames: int = 10
  workers: int | None = None


class Builder(tfds.core.GeneratorBasedBuilder):
  """Builds `synthetic_reid` without TensorFlow as array_record files."""

  VERSION = tfds.core.Version('1.1.0')
  RELEASE_NOTES = {  # noqa: RUF012
    '1.0.0': 'First version.',
    '1.1.0': 'The records say which cameras are indoors; the same pixels.',
  }
  BUILDER_CONFIGS = [  # noqa: RUF012
    Config(
      name='small',
      description='100 + 50 identities, 10 images each per camera.',
      train_identities=100,
      test_identities=50,
    ),
    Config(
      name='full',
      description='395 + 96 identities, the size of SYSU-MM01.',
      train_identities=395,
      test_identities=96,
      train_frames=(14, 15),
      test_frames=20,
    ),
    Config(
      name='tiny',
      description='8 + 4 identities: for tests and trials, not for results.',
      train_identities=8,
      test_identities=4,
    ),
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=records.features(),
      # Records stay in the order of identity, camera and frame.
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager) -> dict[str, Any]:
    del dl_manager  # nothing to download
    return {
      split: self._generate_examples(split) for split in ('train', 'test')
    }

  def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
    tasks = split_tasks(self.builder_config, split)
    progress = tqdm(
      render_all(tasks, self.builder_config.workers),
      desc=f'Rendering {self.name}/{self.builder_config.name} {split}',
      total=len(tasks),
      unit='image',
      mininterval=0.5,
    )
    for task, jpeg in progress:
      camera = CAMERAS[task.camera]
      key = records.record_key(split, task.number, task.camera, task.frame)
      yield (
        key,
        {
          'image': jpeg,
          'identity': task.number,
          'camera': task.camera,
          'modality': camera.modality,
          'location': camera.location,
          'indoor': camera.indoor,
          'frame': task.frame,
        },
      )


def split_tasks(config: Config, split: str) -> list[Task]:
  """Returns every image of a split, in the order of its records."""
  if split == 'train':
    first, count, frames = 1, config.train_identities, config.train_frames
  else:
    first, count = FIRST_TEST_IDENTITY, config.test_identities
    frames = (config.test_frames, config.test_frames)
  return [
    Task(SEED, number, camera.number, frame)
    for number in range(first, first + count)
    for camera in CAMERAS.values()
    for frame in range(frames[camera.modality == 'infrared'])
  ]


def expected_counts(config: str) -> dict[str, int]:
  """Returns the exact figures of a config by the labels of `counts`."""
  rows = [
    (
      split,
      task.number,
      task.camera,
      records.MODALITIES.index(CAMERAS[task.camera].modality),
    )
    for split in ('train', 'test')
    for task in split_tasks(Builder.builder_configs[config], split)
  ]
  figures = counts.count(rows)
  parts = ['identities', 'visible images', 'infrared images']
  parts += [f'camera {camera} images' for camera in CAMERAS]
  return {
    f'{split} {part}': figures[f'{split} {part}']
    for split in ('train', 'test')
    for part in parts
  }
