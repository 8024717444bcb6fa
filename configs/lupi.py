"""LUPI: visible-infrared re-identification with privileged information.

  python -m jaxreid.main --config=configs/lupi.py --workdir=/tmp/lupi

trains on the rendered set with a small backbone (docs/results.md has what to
expect), and

  python -m jaxreid.main --config=configs/lupi.py:dataset=sysu_mm01 \
    --workdir=/tmp/lupi_sysu

is the paper's setting: Alehdaghi et al., "Visible-Infrared Person
Re-Identification Using Privileged Intermediate Information", 2022. Published,
infrared->visible, all-search, single-shot: rank-1 71.08 %, mAP 67.56 % (table
1; 66.76 % in table 4).

Options after the colon, comma separated: dataset=synthetic_reid (default),
sysu_mm01, regdb, npu_reid; trial=1 to 10 or all, of RegDB; ablation=NAME, a
column or row of the paper's tables:

  agw             table 4 'Baseline', table 3 'I-V': two streams, weighted
                  regularised triplet
  gray            table 4 'Grayscale', table 3 'I-V-G': Z is the fixed gray
  random_gray     table 4 'RandG', table 5 'Ours': Z shares the crop and flip
                  of its visible image, no erasing
  (none)          table 4 'RandG + Aug': independent views and erasing
  visible_only    table 4 'Visible-trained', table 3 'V': one stream
  infrared_only   table 4 'Infrared', table 3 'I'
  gray_only       table 3 'G'
  id_only         table 5 'Baseline': three streams, identity loss alone
  triplet_only    table 5 'Triplet Loss': + L_tri
  color_only      table 5 'Color Loss': + L_c
  no_intermediate no Z: two streams, L_id and the triplet between V and I (the
                  authors' fallback without gray images)
  released_losses the losses of the authors' code: mean of the three triplet
                  terms, 10 x mean squared error as L_c
  pretrained      table 4 'Pre-trained': no training; needs backbone.pretrained

Equation 2's two cases are `agw` read on visible->visible (figure 1a) and
infrared->infrared (figure 1b).
"""

import ml_collections

from configs import common

_PLAIN_VIEWS = {'independent_views': False, 'erasing': 0.0}
_SINGLE = {'name': 'baseline', 'triplet': 'weighted_regularized'}

ABLATIONS: dict[str, dict] = {
  '': {},
  'agw': {**_SINGLE, 'modalities': ('visible', 'infrared'), 'split': 1},
  'visible_only': {**_SINGLE, 'modalities': ('visible',)},
  'infrared_only': {**_SINGLE, 'modalities': ('infrared',)},
  'gray_only': {**_SINGLE, 'modalities': ('gray',)},
  'gray': {**_PLAIN_VIEWS, 'intermediate': 'gray'},
  'random_gray': _PLAIN_VIEWS,
  'id_only': {**_PLAIN_VIEWS, 'triplet_weight': 0.0, 'color_free_weight': 0.0},
  'triplet_only': {**_PLAIN_VIEWS, 'color_free_weight': 0.0},
  'color_only': {**_PLAIN_VIEWS, 'triplet_weight': 0.0},
  'no_intermediate': {**_PLAIN_VIEWS, 'intermediate': 'none'},
  'released_losses': {
    'triplet_reduction': 'mean',
    'triplet_weight': 1.0,
    'color_free': 'mse',
    'color_free_weight': 10.0,
  },
  'pretrained': {**_SINGLE, 'modalities': ('visible',)},
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """The paper's implementation section, then what the options change."""
  options = common.parse_arg(
    arg, dataset='synthetic_reid', trial='', ablation=''
  )
  config = common.get_config(options['dataset'], options['trial'])

  # "The ResNet50 CNN was used as backbone", pre-trained on ImageNet; AGW's
  # last stride and non-local blocks.
  config.backbone = {
    'name': 'resnet50',
    'last_stride': 1,
    'nonlocal_blocks': True,
    'nonlocal_width': 'released',  # 1 channel; 'intended': half of those around
    'stem_relu': True,
    'dtype': 'float32',  # or 'bfloat16': compute only, parameters stay float32
    'remat': False,
    'pretrained': '',  # a file of ImageNet weights, see docs/weights.md
  }

  # "b_s = 8 persons and n_p = 4 positive images for each person."
  config.batch = {'identities': 8, 'images_per_identity': 4}

  # "All images are resized to 288 x 144, then cropped randomly"; margin as in
  # AGW; alpha_c = 0.5 and lambda = 10.
  config.method = {
    'name': 'lupi',
    'split': 2,
    'pooling': 'gem',
    'intermediate': 'random_gray',
    'independent_views': True,
    'margin': 0.3,
    'triplet_weight': 1.0,
    'triplet_reduction': 'sum',
    'color_free': 'threshold',
    'color_free_weight': 10.0,
    'color_free_threshold': 0.5,
    'kl_weight': 0.5,
    'kl_order': 'z_v',
    'label_smoothing': 0.0,
    'padding': 10,
    'erasing': 0.5,
    'test_feature': 'neck',
  }

  # "Following the same hyper-parameter configuration" as AGW: SGD with 0.1
  # for the head and a tenth of it for the pre-trained backbone.
  config.optimizer = {
    'name': 'sgd',
    'momentum': 0.9,
    'nesterov': True,
    'weight_decay': 5e-4,
    'multipliers': {'backbone': 0.1},
  }
  # Epochs 0 to 80 (the authors' code goes on to 120 at the last rate).
  config.schedule = {
    'base_rate': 0.1,
    'epochs': 81.0,
    'warmup_epochs': 10.0,
    'decay_epochs': (20.0, 50.0),
    'decay_rate': 0.1,
    'warmup_by': 'epoch',
  }

  if options['dataset'] == 'synthetic_reid':
    common.shrink(config)
    # From random weights, losses that pull the streams together would win
    # before there is anything to tell people apart by.
    config.method.triplet_weight = 0.1
    config.method.color_free_weight = 1.0
  _apply(config, common.choose(ABLATIONS, options['ablation']))
  if options['ablation'] == 'pretrained':
    config.schedule.epochs = 0.0
  return config


def _apply(config: ml_collections.ConfigDict, changes: dict):
  """Overrides of the method section; another method replaces it."""
  if changes.get('name', 'lupi') != 'lupi':
    shared = ('pooling', 'label_smoothing', 'padding', 'test_feature')
    kept = {name: config.method[name] for name in shared}
    config.method = {**kept, 'margin': 0.3, 'erasing': 0.0, **changes}
  else:
    config.method.update(changes)
