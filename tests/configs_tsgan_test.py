"""TS-GAN's config: the paper's setting, and what each option changes in it."""

import re

import pytest

from configs import common, tsgan
from jaxreid import experiment, optim, teacher

DATASETS = tuple(common.DATASETS)
PLAYERS = {'generator', 'backbone', 'discriminator'}
STUDENTS = {
  '': {},
  'od_single': {
    'method.discriminator': 'ordinary',
    'method.teacher_losses': ('cross',),
  },
  'od_all': {'method.discriminator': 'ordinary'},
}
BASELINES = {
  'backbone': ('visible', 'infrared'),
  'teacher_infrared': ('infrared',),
  'teacher_visible': ('visible',),
}


def _flat(tree, prefix=''):
  flat = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      flat.update(_flat(value, f'{prefix}{name}.'))
    else:
      flat[prefix + name] = value
  return flat


@pytest.mark.parametrize('dataset', DATASETS)
@pytest.mark.parametrize('ablation', STUDENTS)
def test_a_student_changes_what_it_says(dataset, ablation):
  default = _flat(tsgan.get_config(f'dataset={dataset}').to_dict())
  config = tsgan.get_config(f'dataset={dataset},ablation={ablation}')
  flat = _flat(config.to_dict())
  assert flat.keys() == default.keys()
  different = {name: flat[name] for name in flat if flat[name] != default[name]}
  assert different == STUDENTS[ablation]
  method = experiment.make_method(config, 7)
  optimizers = experiment.make_optimizers(config, method, 10)
  assert set(optimizers) == set(method.losses) == PLAYERS


@pytest.mark.parametrize('dataset', DATASETS)
@pytest.mark.parametrize('ablation', BASELINES)
def test_a_baseline_has_no_generators_and_no_teacher(dataset, ablation):
  config = tsgan.get_config(f'dataset={dataset},ablation={ablation}')
  assert config.method.name == 'baseline'
  assert tuple(config.method.modalities) == BASELINES[ablation]
  for field in ('teacher', 'teacher_run', 'player_optimizers'):
    assert field not in config
  # Beside the rows with a teacher, identities weigh the same.
  weight = config.method.identity_weight
  assert weight == (3.0 if ablation == 'backbone' else 1.0)
  method = experiment.make_method(config, 7)
  optimizers = experiment.make_optimizers(config, method, 10)
  assert set(optimizers) == {'backbone'}


@pytest.mark.parametrize('dataset', DATASETS)
def test_the_first_stage_is_the_row_of_table_3(dataset):
  student = tsgan.get_config(f'dataset={dataset}')
  first = teacher.teacher_config(student).to_dict()
  alone = tsgan.get_config(f'dataset={dataset},ablation=teacher_infrared')
  alone = alone.to_dict()
  # What a teacher's own run also has: how it is searched, and plug-ins.
  for part in (first, alone):
    part.pop('plugins', None)
    part.pop('evaluation')
  assert first == alone
  assert 'teacher' in student  # unchanged


def test_the_docstring_lists_all_ablations():
  section = tsgan.__doc__.split('tables:')[1]
  listed = re.findall(r'^  ([\w()]+) +\S', section, re.MULTILINE)
  assert sorted(listed) == sorted(name or '(none)' for name in tsgan.ABLATIONS)


@pytest.mark.parametrize('dataset', ['sysu_mm01', 'regdb', 'npu_reid'])
def test_the_papers_setting(dataset):
  config = tsgan.get_config(f'dataset={dataset}')
  assert config.dataset.image_size == (256, 128)
  assert config.backbone.name == 'resnet50'
  assert config.backbone.last_stride == 1
  assert config.batch.to_dict() == {'identities': 8, 'images_per_identity': 4}
  method = config.method
  assert (method.identity_weight, method.triplet_weight) == (3.0, 1.0)
  assert method.gan_weight == 0.1
  assert (method.same_weight, method.cross_weight) == (0.003, 0.006)
  assert method.cycle_weight == 10.0
  assert (method.margin, method.label_smoothing) == (0.3, 0.1)
  assert config.optimizer.weight_decay == 5e-4
  assert config.evaluation.rerank
  for player in ('generator', 'discriminator'):
    assert config.player_optimizers[player].to_dict() == {
      'name': 'adam',
      'rate': 2e-4,
      'b1': 0.5,
      'b2': 0.999,
    }
  plan = optim.Schedule(**config.schedule.to_dict())
  assert optim.total_steps(plan, 10) == 1200
  rate = optim.schedule(plan, 10)
  for epoch, expected in (
    (0, 3.5e-5),
    (4, 1.75e-4),
    (9, 3.5e-4),
    (39, 3.5e-4),
    (40, 1.05e-4),
    (69, 1.05e-4),
    (70, 3.15e-5),
    (119, 3.15e-5),
  ):
    assert float(rate(10 * epoch)) == pytest.approx(expected)


def test_optimizers_of_single_players_are_checked():
  config = tsgan.get_config()
  method = experiment.make_method(config, 7)
  for player, options, message in (
    ('generator', {'name': 'lamb'}, "player_optimizers.generator.name 'lamb'"),
    (
      'generator',
      {'name': 'adam'},
      'config.player_optimizers.generator: .*rate',
    ),
    ('critic', {'name': 'adam', 'rate': 1.0}, 'trains no such player; there'),
  ):
    wrong = tsgan.get_config()
    wrong.player_optimizers = {player: options}
    with pytest.raises(ValueError, match=message):
      experiment.make_optimizers(wrong, method, 10)


def test_the_default_is_small():
  config = tsgan.get_config()
  assert config.dataset.image_size == (72, 36)
  assert config.backbone.name == 'resnet_small'
  assert config.method.generator_width < 16
