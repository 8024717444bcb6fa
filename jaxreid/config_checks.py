"""What is wrong with a config, seen before data and devices are touched.

Synopsis:

  check_values(config)
"""

import ml_collections

from jaxreid.data.feed import RESIDENCIES
from jaxreid.data.sampler import check_batch
from jaxreid.evaluation.protocols import LAYOUTS


def check_values(config: ml_collections.ConfigDict):
  """Refuses numbers and names that can mean nothing.

  Raises:
    ValueError: naming the field, its value and what it may be.
  """
  check_batch(config.batch.identities, config.batch.images_per_identity)
  for name in ('padding', 'test_feature'):
    if name not in config.method:
      raise ValueError(
        f'the config lacks method.{name}, which every method has; give it a '
        'value in get_config and take it as an argument of the method'
      )
  for name, value, known in (
    ('dataset.residency', config.dataset.residency, RESIDENCIES),
    (
      'evaluation.test_distance',
      config.evaluation.test_distance,
      ('sum', 'plain', 'both'),
    ),
    ('dataset.layout', config.dataset.layout, LAYOUTS),
    (
      'evaluation.gallery',
      config.evaluation.gallery,
      ('auto', 'official', 'random'),
    ),
    (
      'evaluation.average_precision',
      config.evaluation.average_precision,
      ('hits', 'trapezoid'),
    ),
  ):
    if value not in known:
      raise ValueError(f'{name} must be one of {known}, not {value!r}')
  for name, value, least in (
    ('log_every', config.log_every, 1),
    ('checkpoint_every', config.checkpoint_every, 1),
    ('evaluation.batch_size', config.evaluation.batch_size, 1),
    ('profile_steps', config.profile_steps, 0),
    ('steps_per_dispatch', config.get('steps_per_dispatch', 0), 0),
    ('schedule.epochs', config.schedule.epochs, 0),
    ('seed', config.seed, 0),
    ('method.padding', config.method.padding, 0),
    ('backbone.last_stride', config.backbone.last_stride, 1),
  ):
    if value < least:
      raise ValueError(f'{name} must be at least {least}, not {value}')
  for name in ('erasing', 'label_smoothing'):
    if not 0 <= config.method.get(name, 0.0) <= 1:
      raise ValueError(
        f'method.{name} must be from 0 to 1, not {config.method[name]}'
      )
  _check_weights(config)
  size = tuple(config.dataset.image_size)
  if len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
    raise ValueError(
      'dataset.image_size must be a height and a width in pixels, such as '
      f'(96, 48), not {size}'
    )


def _check_weights(config: ml_collections.ConfigDict):
  if config.weights and config.backbone.pretrained:
    raise ValueError(
      'weights and backbone.pretrained are both given, and the first holds '
      'all of the network; leave one out'
    )
  if config.weights and config.dataset.get('trials'):
    raise ValueError(
      'weights is one network, and dataset.trials are several splits, of which '
      'it was trained on at most one; name that one with dataset.config'
    )
  given = config.weights or config.backbone.pretrained
  if config.schedule.epochs == 0 and not given:
    raise ValueError(
      'with schedule.epochs=0 nothing is trained, and no weights are given: '
      'set --config.backbone.pretrained=FILE'
    )
