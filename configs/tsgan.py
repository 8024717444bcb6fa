"""TS-GAN: a teacher-student network with generated infrared images.

  python -m jaxreid.main --config=configs/tsgan.py --workdir=/tmp/tsgan

trains an infrared teacher in /tmp/tsgan/teacher and then the student, on the
rendered set with small networks, and evaluates it with and without
re-ranking: 44 % and 57 % rank-1 after 14 minutes on one CPU core
(docs/results.md).
`--config.teacher=WORKDIR` takes a finished teacher in place of the first
stage. And

  python -m jaxreid.main --config=configs/tsgan.py:dataset=sysu_mm01 \
    --workdir=/tmp/tsgan_sysu

is the paper's setting: Zhang, Jiang, Huang, Li, Xu, "RGB-IR Cross-modality
Person ReID based on Teacher-Student GAN Model", 2020. Published,
infrared->visible, all-search, single-shot: rank-1 49.8 %, mAP 47.4 %;
re-ranked 58.3 %, 55.1 % (table 1).

Options after the colon, comma separated: dataset=synthetic_reid (default),
sysu_mm01, regdb, npu_reid; trial=1 to 10 or all, of RegDB; ablation=NAME, a
row of the paper's tables:

  backbone          table 2 'Backbone': real visible and infrared images, no
                    generators, no teacher
  od_single         table 2 'OD, single TS': ordinary D_I, Eq. 15 only
  od_all            table 2 'OD, all TS': ordinary D_I, Eq. 13 to 15
  (none)            table 2 'JD, all TS', with and without re-ranking
  teacher_infrared  table 3 'SYSU-IR': the teacher alone, read on
                    infrared->infrared
  teacher_visible   table 3 'SYSU-RGB': the same on visible images, read on
                    visible->visible
"""

import ml_collections

from configs import common

_BASELINES: dict[str, dict] = {
  'backbone': {'modalities': ('visible', 'infrared')},
  'teacher_infrared': {'modalities': ('infrared',)},
  'teacher_visible': {'modalities': ('visible',)},
}
ABLATIONS: dict[str, dict] = {
  '': {},
  'od_single': {'discriminator': 'ordinary', 'teacher_losses': ('cross',)},
  'od_all': {'discriminator': 'ordinary'},
  **_BASELINES,
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """The paper's implementation details, then what the options change."""
  options = common.parse_arg(
    arg, dataset='synthetic_reid', trial='', ablation=''
  )
  config = common.get_config(options['dataset'], options['trial'])

  # "The ResNet-50 pre-trained on ImageNet", "the last layer stride to be 1".
  # The paper gives no image size; this is its baseline's (Luo et al., 2019).
  config.dataset.image_size = (256, 128)
  config.backbone = {
    'name': 'resnet50',
    'last_stride': 1,
    'nonlocal_blocks': False,
    'stem_relu': True,
    'dtype': 'float32',  # or 'bfloat16': compute only, parameters stay float32
    'remat': False,
    'pretrained': '',  # a file of ImageNet weights, see docs/weights.md
  }

  # "The batch size is set as 64, including 4 RGB-IR image pairs per person
  # from 8 people."
  config.batch = {'identities': 8, 'images_per_identity': 4}

  # lambda 3, 1 and 0.1; margin 0.3; alpha 0.003 and 0.006; omega 10. Label
  # smoothing is its baseline's, generators and discriminators are CycleGAN's.
  config.method = {
    'name': 'tsgan',
    'pooling': 'average',
    'margin': 0.3,
    'label_smoothing': 0.1,
    'identity_weight': 3.0,
    'triplet_weight': 1.0,
    'gan_weight': 0.1,
    'same_weight': 0.003,
    'cross_weight': 0.006,
    'cycle_weight': 10.0,
    'teacher_losses': ('real', 'fake', 'cross'),
    'map_reduction': 'mean',
    'discriminator': 'joint',
    'gan_loss': 'bce',
    'detach_feature_map': False,
    'generator_width': 64,
    'generator_blocks': 9,
    'generator_downsamplings': 2,
    'generator_kernel': 7,
    'discriminator_width': 64,
    'padding': 10,
    'erasing': 0.0,
    'test_feature': 'pooled',
  }

  # "We use Adam optimizer and set both the weight decay factor and weight
  # decay bias factor as 0.0005"; added to the gradient. Generators and
  # discriminators have CycleGAN's.
  config.optimizer = {'name': 'adam', 'weight_decay': 5e-4, 'multipliers': {}}
  gan = {'name': 'adam', 'rate': 2e-4, 'b1': 0.5, 'b2': 0.999}
  config.player_optimizers = {'generator': {**gan}, 'discriminator': {**gan}}

  # "Base learning rate 0.00035", 120 epochs; "for the epoch step in [40, 70],
  # we decrease the learning rate by a decay factor 0.3"; linear warm-up from a
  # tenth over 10 epochs.
  config.schedule = {
    'base_rate': 3.5e-4,
    'epochs': 120.0,
    'warmup_epochs': 10.0,
    'decay_epochs': (40.0, 70.0),
    'decay_rate': 0.3,
    'warmup_start': 0.0,
    'warmup_by': 'epoch',
  }
  # "We report results with and without reranking simultaneously."
  config.evaluation.rerank = True

  if options['dataset'] == 'synthetic_reid':
    _shrink(config)
  _add_teacher(config)
  changes = common.choose(ABLATIONS, options['ablation'])
  if options['ablation'] in _BASELINES:
    _make_baseline(config, changes)
  else:
    config.method.update(changes)
  return config


def _shrink(config: ml_collections.ConfigDict):
  """For the rendered set: small networks, few steps and higher rates."""
  # Three quarters of its images: a step takes half as long.
  config.dataset.image_size = (72, 36)
  common.shrink(config)
  config.schedule.base_rate = 3e-3
  config.schedule.epochs = 5.0
  config.schedule.warmup_epochs = 0.5
  config.schedule.decay_epochs = (3.2, 4.3)
  config.method.update(
    {
      'generator_width': 8,
      'generator_blocks': 2,
      'generator_downsamplings': 1,
      'generator_kernel': 3,
      'discriminator_width': 16,
    }
  )
  for options in config.player_optimizers.values():
    options.rate = 1e-3


def _add_teacher(config: ml_collections.ConfigDict):
  """The first stage: "We pretrain a baseline model on the IR images"."""
  # The workdir of a finished teacher; '' trains one in WORKDIR/teacher.
  config.teacher = ''
  # What a teacher's run has in place of the sections of these names.
  config.teacher_run = {
    'method': {
      'name': 'baseline',
      'modalities': ('infrared',),
      'split': 0,
      'triplet': 'batch_hard',
      'identity_weight': 1.0,
      **{
        name: config.method[name]
        for name in (
          'pooling',
          'margin',
          'label_smoothing',
          'padding',
          'erasing',
          'test_feature',
        )
      },
    },
    'schedule': config.schedule.to_dict(),
  }


def _make_baseline(config: ml_collections.ConfigDict, changes: dict):
  """A run without generators and teacher, such as the teacher's own."""
  run = config.teacher_run
  if len(changes['modalities']) > 1:
    # Beside the rows with a teacher: weighted and trained as these are.
    run.method.identity_weight = config.method.identity_weight
  else:
    config.schedule = run.schedule
  config.method = ml_collections.ConfigDict({**run.method, **changes})
  for field in ('teacher', 'teacher_run', 'player_optimizers'):
    del config[field]
