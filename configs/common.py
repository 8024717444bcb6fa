"""What all configs share: the argument after the colon, and the defaults.

Synopsis, in a config file:

  def get_config(arg=None):
    options = common.parse_arg(arg, dataset='synthetic_reid', ablation='')
    config = common.get_config(options['dataset'])
"""

import ml_collections

# Paper sizes: (height, width) of the table of decoded images.
DATASETS = {
  'synthetic_reid': {'config': 'small', 'image_size': (96, 48)},
  'sysu_mm01': {'config': '', 'image_size': (288, 144)},
  'regdb': {'config': 'trial_1', 'image_size': (288, 144)},
}


def parse_arg(arg: str | None, **defaults: str) -> dict[str, str]:
  """Turns `dataset=regdb,ablation=agw` into a dictionary.

  Args:
    arg: what follows the colon in `--config=configs/lupi.py:...`, a comma
      separated list of name=value; None for all defaults.
    **defaults: every option there is, with its default.

  Raises:
    ValueError: on an option that is not among the defaults.
  """
  options = dict(defaults)
  for item in filter(None, (arg or '').split(',')):
    name, separator, value = item.partition('=')
    if name not in defaults or not separator:
      raise ValueError(
        f'unknown config argument {item!r}; write name=value with one of: '
        + ', '.join(sorted(defaults))
      )
    options[name] = value
  return options


def choose(ablations: dict[str, dict], name: str) -> dict:
  """The overrides of an ablation.

  Raises:
    ValueError: if there is none of that name, listing all.
  """
  if name not in ablations:
    raise ValueError(
      f'unknown ablation {name!r}; there are: '
      + ', '.join(sorted(filter(None, ablations)))
    )
  return ablations[name]


def get_config(dataset: str) -> ml_collections.ConfigDict:
  """Dataset, batch and bookkeeping; the same for every method.

  Raises:
    ValueError: on an unknown dataset.
  """
  if dataset not in DATASETS:
    raise ValueError(
      f'unknown dataset {dataset!r}; there are: ' + ', '.join(DATASETS)
    )
  config = ml_collections.ConfigDict()
  config.seed = 0
  # A whole network that AGW's or LUPI's authors released (docs/weights.md).
  config.weights = ''
  config.dataset = {
    'name': dataset,
    'data_dir': '',  # TFDS's default, ~/tensorflow_datasets
    'residency': 'auto',  # where the pixels live: 'device', 'host' or 'auto'
    # Identities held out of training to choose the best checkpoint by; with
    # 0 the last one counts, as in the papers' settings.
    'validation_identities': 0,
    **DATASETS[dataset],
  }
  config.batch = {'identities': 8, 'images_per_identity': 4}
  config.evaluation = {
    'batch_size': 256,
    'test_distance': 'sum',
  }
  config.log_every = 20  # steps
  config.checkpoint_every = 200  # steps; then validation, if there is any
  config.profile_steps = 0  # profile so many steps after the first ten
  config.deterministic = False  # on GPU: exact resume, at some cost
  return config


def shrink(config: ml_collections.ConfigDict):
  """A small network and a short schedule for the rendered set on 2 cores.

  One basic block per stage, width 32, from random weights: hence one rate for
  the whole network, and padding and decay points scaled with image and length.
  """
  config.backbone.name = 'resnet_small'
  config.method.padding = 3
  config.schedule.base_rate = 0.05
  config.optimizer.multipliers = ml_collections.ConfigDict()
  config.schedule.epochs = 7.0
  config.schedule.warmup_epochs = 1.0
  config.schedule.warmup_by = 'step'
  config.schedule.decay_epochs = (4.0, 6.0)
