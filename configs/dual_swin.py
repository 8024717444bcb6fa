"""dual_swin: a two-path Swin, modality exchange and a multi-mask triplet.

  python -m jaxreid.main --config=configs/dual_swin.py --workdir=/tmp/dual_swin

trains on the rendered set with a small Swin (docs/results.md has what to
expect), and

  python -m jaxreid.main --config=configs/dual_swin.py:dataset=npu_reid \
    --workdir=/tmp/dual_swin_npu

is the paper's setting: "A New Paradigm for Cross-Modality Person
Re-Identification", the paper of the NPU-ReID dataset. Published, visible->
infrared, all-search, single-shot on NPU-ReID: rank-1 94.41 %, mAP 84.92 %. On
RegDB (dataset=regdb,trial=all): visible->infrared rank-1 91.84 %, mAP 88.79 %;
infrared->visible rank-1 89.54 %, mAP 86.22 %. On SYSU-MM01
(dataset=sysu_mm01), infrared->visible, all-search, single-shot: rank-1
64.16 %, mAP 60.17 %. The paper starts from ImageNet weights, which
--config.backbone.pretrained=FILE gives (docs/weights.md).

Options after the colon, comma separated: dataset=synthetic_reid (default),
sysu_mm01, regdb, npu_reid; trial=1 to 10 or all, of RegDB; size=HxW, the size
of the images (224x224; the paper's own study has 288x144 beside it);
ablation=NAME, a row of the paper's tables:

  baseline  table 2 'B': identity loss alone
  mag       table 2: + modality exchange
  mmtn      table 2: B + the negative part of the multi-mask triplet
  mmtp      table 2: B + its positive part
  mmt       table 2: B + both
  (none)    table 2: all; table 8 'F3': stem and stages 1 and 2 private
  f1        table 8 'F1': the stem alone is private
  f2        table 8 'F2': stem and stage 1
  f4        table 8 'F4': stem and stages 1 to 3
  f5        table 8 'F5': all stages; only neck and classifier are shared

Table 6 puts both into the methods of others, here of any config:

  --config.plugins.exchange.probability=0.5 --config.plugins.multi_mask.weight=1

The paper gives no epochs, schedule, sizes of the Swin, numbers of MAG or of
the triplet; what is ours is marked below.
"""

import re

import ml_collections

from configs import common

_NO_EXCHANGE = {'exchange_probability': 0.0}

ABLATIONS: dict[str, dict] = {
  '': {},
  'baseline': {**_NO_EXCHANGE, 'multi_mask_weight': 0.0},
  'mag': {'multi_mask_weight': 0.0},
  'mmtn': {**_NO_EXCHANGE, 'spread_weight': 0.0},
  'mmtp': {**_NO_EXCHANGE, 'triplet_weight': 0.0},
  'mmt': _NO_EXCHANGE,
  'f1': {'split': 1},
  'f2': {'split': 2},
  'f4': {'split': 4},
  'f5': {'split': 5},
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """The paper's experimental settings, then what the options change."""
  options = common.parse_arg(
    arg, dataset='synthetic_reid', trial='', ablation='', size=''
  )
  config = common.get_config(options['dataset'], options['trial'])
  # Here both are part of the method.
  del config.plugins

  # "The augmented images are resized to 224 x 224"; "the improved dual-path
  # Swin Transformer"; its size is ours.
  config.dataset.image_size = (224, 224)
  config.backbone = {
    'name': 'swin_tiny',
    'last_stride': 2,  # a Swin has no other
    'drop_path': 0.0,  # stochastic depth is not in the paper
    'dtype': 'float32',  # or 'bfloat16': compute only, parameters stay float32
    'remat': False,
    'pretrained': '',  # a file of ImageNet weights, see docs/weights.md
  }

  # "A batch size of 8": 8 identities with 4 images per modality (ours).
  config.batch = {'identities': 8, 'images_per_identity': 4}

  # Split, and what is compared with what, are the paper's; all numbers are
  # ours. Crop and flip are AGW's, the BNNeck is, too.
  config.method = {
    'name': 'dual_swin',
    'split': 3,
    'pooling': 'average',
    'exchange_probability': 0.5,
    'exchange_area': (0.02, 0.4),
    'exchange_aspect': (0.3, 3.3),
    'multi_mask_weight': 1.0,
    'margin': 0.3,
    'spread_margin': 0.1,
    'spread_weight': 0.5,
    'triplet_weight': 1.0,
    'label_smoothing': 0.0,
    'padding': 10,
    'erasing': 0.0,
    'test_feature': 'neck',
  }

  # "An initial learning rate of 0.01, and the SGD optimizer with momentum 0.9
  # and weight decay 5e-4".
  config.optimizer = {
    'name': 'sgd',
    'momentum': 0.9,
    'nesterov': False,
    'weight_decay': 5e-4,
    'multipliers': {},
  }
  # Length, warm-up and decays are AGW's.
  config.schedule = {
    'base_rate': 0.01,
    'epochs': 81.0,
    'warmup_epochs': 10.0,
    'decay_epochs': (20.0, 50.0),
    'decay_rate': 0.1,
    'warmup_by': 'epoch',
  }

  if options['dataset'] == 'synthetic_reid':
    _shrink(config)
  if options['size']:
    config.dataset.image_size = _parse_size(options['size'])
  config.method.update(common.choose(ABLATIONS, options['ablation']))
  return config


def _shrink(config: ml_collections.ConfigDict):
  """A small Swin and a short schedule for the rendered set on 2 cores."""
  common.shrink(config)
  config.backbone.name = 'swin_mini'
  # A step takes half as long as at 72x72, which its images do not fill.
  config.dataset.image_size = (72, 36)
  # From random weights: Adam, as Swin's authors have AdamW; the classifier's
  # rate is ten times the backbone's, as AGW's is.
  config.optimizer = {
    'name': 'adam',
    'weight_decay': 0.0,
    'multipliers': {'backbone': 0.1},
  }
  config.schedule.base_rate = 1e-2
  config.schedule.epochs = 12.0
  config.schedule.decay_epochs = (8.0, 10.5)
  # As with LUPI: at full weight the triplet soon draws all features together.
  config.method.multi_mask_weight = 0.1


def _parse_size(size: str) -> tuple[int, int]:
  match = re.fullmatch(r'(\d+)x(\d+)', size)
  if not match:
    raise ValueError(f'size is HEIGHTxWIDTH, such as 288x144, not {size!r}')
  return int(match[1]), int(match[2])
