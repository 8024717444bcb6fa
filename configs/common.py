"""What all configs share: the argument after the colon, and the defaults.

Synopsis, in a config file:

  def get_config(arg=None):
    options = common.parse_arg(
      arg, dataset='synthetic_reid', trial='', ablation=''
    )
    config = common.get_config(options['dataset'], options['trial'])
"""

import ml_collections

# The config of the builder, whose protocol, and the paper's size: (height,
# width) of the table of decoded images.
DATASETS = {
  'synthetic_reid': {
    'config': 'small',
    'layout': 'sysu_mm01',
    'image_size': (96, 48),
  },
  'sysu_mm01': {
    'config': '',
    'layout': 'sysu_mm01',
    'image_size': (288, 144),
  },
  'regdb': {
    'config': 'trial_1',
    'layout': 'regdb',
    'image_size': (288, 144),
  },
  'npu_reid': {
    'config': 'large',
    'layout': 'npu_reid',
    'image_size': (288, 144),
  },
}
# RegDB's ten splits of its identities.
TRIALS = tuple(f'trial_{number}' for number in range(1, 11))


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


def get_config(dataset: str, trial: str = '') -> ml_collections.ConfigDict:
  """Dataset, batch and bookkeeping; the same for every method.

  Args:
    dataset: one of `DATASETS`.
    trial: of RegDB, '1' to '10', or 'all' for ten models and their mean.

  Raises:
    ValueError: on an unknown dataset or trial.
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
    # 0 the last one counts, as in the papers' settings. -1: those that the
    # dataset names (SYSU-MM01: 99).
    'validation_identities': 0,
    # Every split to train and evaluate in turn; none: `config` alone.
    'trials': (),
    **DATASETS[dataset],
  }
  if trial:
    config.dataset.update(_choose_trial(dataset, trial))
  config.batch = {'identities': 8, 'images_per_identity': 4}
  # For any method (jaxreid/methods/plugins.py): MAG and the multi-mask triplet
  # of configs/dual_swin.py, with its values; 0 leaves each out.
  config.plugins = {
    'exchange': {
      'probability': 0.0,  # 0.5 in dual_swin
      'area': (0.02, 0.4),
      'aspect': (0.3, 3.3),
    },
    'multi_mask': {
      'weight': 0.0,  # 1 in dual_swin, 0.1 on the rendered set
      'margin': 0.3,
      'spread_margin': 0.1,
      'spread_weight': 0.5,
      'triplet_weight': 1.0,
    },
  }
  config.evaluation = {
    'batch_size': 256,
    # Of images with several embeddings: 'sum' over them, 'plain' (the first
    # alone) or 'both', a row for each.
    'test_distance': 'sum',
    # 'official' draws galleries by SYSU-MM01's rand_perm_cam.mat, 'random' as
    # most papers' code; 'auto': the first where the file was there.
    'gallery': 'auto',
    'average_precision': 'hits',  # or 'trapezoid'
    'rerank': False,  # also report k-reciprocal re-ranking
    'flip': False,  # average embeddings of an image and its mirror image
  }
  config.log_every = 20  # steps
  config.checkpoint_every = 200  # steps; then validation, if there is any
  config.profile_steps = 0  # profile so many steps after the first ten
  # Of accelerators that hold the pixels: steps for which the host asks at
  # once; 0: a number that divides all of the above, 1 on CPU.
  config.steps_per_dispatch = 0
  config.deterministic = False  # on GPU: exact resume, at some cost
  return config


def _choose_trial(dataset: str, trial: str) -> dict:
  if dataset != 'regdb':
    raise ValueError(f'trial={trial} is for dataset=regdb, not {dataset}')
  if trial == 'all':
    return {'trials': TRIALS}
  if f'trial_{trial}' not in TRIALS:
    raise ValueError(f"a trial of RegDB is 1 to 10 or 'all', not {trial!r}")
  return {'config': f'trial_{trial}'}


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
