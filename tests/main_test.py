"""Every mistake is one sentence with its remedy, found before any work."""

import os
import pathlib
import shutil

import ml_collections
import pytest

from configs import lupi
from jaxreid import command_line, train

CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'
CONFIG = f'--config={CONFIGS}/lupi.py'


def assert_sentence(child, *parts):
  """Status 1 and one line on stderr, 'error: ...', that holds the parts."""
  assert child.returncode == 1, child
  assert 'Traceback' not in child.stderr
  (line,) = child.stderr.strip().splitlines()
  assert line.startswith('error: ')
  for part in parts:
    assert part in line
  assert not child.stdout


@pytest.fixture
def fails(start, finish, tmp_path):
  """fails(*flags): starts a child in an empty folder and waits for it."""

  def fails(*flags, **environment):
    return finish(start(*flags, cwd=tmp_path, **environment), tmp_path)

  return fails


@pytest.mark.parametrize(
  ('flags', 'parts'),
  [
    (['--workdir=run'], ['--config is missing', '--help']),
    ([CONFIG], ['--workdir is missing', '--help']),
    ([CONFIG, '--workdir='], ['--workdir is missing']),
    (
      ['--config=nowhere/lupi.py', '--workdir=run'],
      ['config file nowhere/lupi.py does not exist'],
    ),
    (
      [f'{CONFIG}:ablation=grey', '--workdir=run'],
      ["unknown ablation 'grey'; there are: agw, ", 'random_gray'],
    ),
    (
      [f'{CONFIG}:dataset=market', '--workdir=run'],
      ["unknown dataset 'market'; there are: synthetic_reid"],
    ),
    (
      ['--config', f'{CONFIGS}/lupi.py:agw', '--workdir', 'run'],
      ["unknown config argument 'agw'", 'ablation, dataset'],
    ),
    (
      [CONFIG, '--workdir=run', '--config.nonsense=1'],
      ["no field 'nonsense'", 'schedule, seed'],
    ),
    (
      [CONFIG, '--workdir=run', '--config.seed=1', '--config.method.margn=1'],
      ["no field 'method.margn'", 'margin'],
    ),
    (
      [CONFIG, '--workdir=run', '--config.seed.high=1'],
      ["no field 'seed.high'"],
    ),
    (
      [CONFIG, '--workdir=run', '--config.seed=first'],
      ['--config.seed=first', 'int'],
    ),
    (
      [CONFIG, '--workdir=run', '--config.schedule.base_rate=fast'],
      ['--config.schedule.base_rate=fast', 'float'],
    ),
    ([CONFIG, '--workdir=run', '--wrokdir=run'], ['wrokdir', 'workdir']),
    ([CONFIG, '--workdir=run', '--mode=eval'], ['--mode=eval', 'evaluate']),
    ([CONFIG, '--workdir=run', 'train'], ["unexpected argument 'train'"]),
  ],
)
def test_mistyped_flags(fails, tmp_path, flags, parts):
  assert_sentence(fails(*flags), *parts)
  assert not list(tmp_path.iterdir())


def test_data_that_nobody_prepared(fails, tmp_path):
  child = fails(
    f'{CONFIG}:dataset=sysu_mm01',
    f'--config.dataset.data_dir={tmp_path}/data',
    '--workdir=run',
  )
  assert_sentence(
    child,
    f"'sysu_mm01' is not prepared: there is no {tmp_path}/data/sysu_mm01",
    'https://github.com/wuancong/SYSU-MM01',
    'python -m tfds_builders.prepare sysu_mm01 --manual_dir=FOLDER',
  )


def test_devices_that_cannot_share_the_batch(fails, tiny_flags):
  child = fails(
    *tiny_flags,
    '--workdir=run',
    XLA_FLAGS='--xla_force_host_platform_device_count=3',
  )
  assert_sentence(child, 'batch of 16 images', '3 devices', 'multiple of 3')


def test_nothing_to_evaluate(fails, tiny_flags, tmp_path):
  child = fails(*tiny_flags, '--workdir=run', '--mode=evaluate')
  assert_sentence(child, f'{tmp_path}/run holds no run', 'train there first')
  assert not (tmp_path / 'run').exists()


def test_workdir_of_another_config(fails, tiny_flags, uninterrupted):
  before = (uninterrupted.workdir / 'config.json').read_bytes()
  child = fails(*tiny_flags, f'--workdir={uninterrupted.workdir}')
  assert_sentence(
    child,
    str(uninterrupted.workdir),
    'dataset.validation_identities 2 -> 0',
    'log_every 2 -> 20',
    'another --workdir',
  )
  assert 'data_dir' not in child.stderr
  assert (uninterrupted.workdir / 'config.json').read_bytes() == before


def test_data_that_cannot_be_read(fails, tiny_flags, tiny_data_dir, tmp_path):
  copy = tmp_path / 'data'
  shutil.copytree(tiny_data_dir, copy, ignore=shutil.ignore_patterns('decoded'))
  (path,) = copy.glob('**/*train.array_record*')
  os.truncate(path, path.stat().st_size // 2)
  child = fails(
    *tiny_flags, '--workdir=run', f'--config.dataset.data_dir={copy}'
  )
  assert_sentence(child, str(path.parent), 'cannot be read', 'prepare it again')
  assert not (tmp_path / 'run' / 'config.json').exists()


def test_loss_that_is_not_finite(start, finish, tiny_flags, tmp_path):
  config, *others = tiny_flags
  child = finish(
    start(
      f'{config}:ablation=visible_only',  # one stream compiles quickest
      *others,
      f'--workdir={tmp_path}',
      '--config.batch.images_per_identity=2',
      '--config.schedule.base_rate=1e30',
      '--config.checkpoint_every=1',
    )
  )
  assert child.returncode == 1
  assert 'Traceback' not in child.stderr
  *_, line = child.stderr.strip().splitlines()
  assert line.startswith('error: step ')
  assert 'loss nan' in line or 'loss inf' in line
  assert f'the last good checkpoint is {tmp_path}/checkpoints/' in line
  assert 'lower schedule.base_rate' in line


@pytest.fixture
def config(tiny_data_dir) -> ml_collections.ConfigDict:
  config = lupi.get_config()
  config.dataset.config = 'tiny'
  config.dataset.data_dir = str(tiny_data_dir)
  config.dataset.image_size = (24, 12)
  return config


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('batch.identities', 1, 'at least 2 identities.*not batch.identities=1'),
    ('batch.images_per_identity', 1, 'batch.images_per_identity=1'),
    ('batch.identities', 10, 'batch.identities=10, but .* 8 identities'),
    (
      'batch.images_per_identity',
      24,
      'images_per_identity=24, but identity 1 has 20 infrared',
    ),
    ('batch.images_per_identity', 3, None),
    ('dataset.validation_identities', 1, 'validation_identities=1 leaves'),
    ('dataset.validation_identities', -1, 'synthetic_reid names no validation'),
    ('dataset.name', 'market', "no dataset 'market'"),
    ('dataset.name', 'regdb', "'regdb' has no config 'tiny': choose one of"),
    ('dataset.config', 'huge', "no config 'huge'"),
    ('dataset.residency', 'gpu', "'gpu'"),
    ('dataset.image_size', (24,), 'dataset.image_size must be a height'),
    ('dataset.image_size', (24, 0), 'dataset.image_size must be a height'),
    ('method.name', 'hat', "unknown method.name 'hat'; there are"),
    ('method.intermediate', 'sepia', "method.intermediate.*'sepia'"),
    ('method.test_feature', 'logits', "test_feature.*'logits'"),
    ('method.pooling', 'max', "'max'"),
    ('method.split', 9, '9'),
    ('backbone.name', 'resnet51', "'resnet51'"),
    ('backbone.dtype', 'float16', "backbone.dtype.*'float16'"),
    ('optimizer.name', 'lamb', "unknown optimizer.name 'lamb'"),
    ('optimizer.name', 'adam', 'config.optimizer: .*momentum'),
    ('schedule.warmup_by', 'day', "'day'"),
    ('schedule.epochs', -1.0, 'schedule.epochs must be at least 0'),
    ('evaluation.test_distance', 'cosine', "test_distance.*'cosine'"),
    ('evaluation.batch_size', 0, 'evaluation.batch_size must be at least 1'),
    ('log_every', 0, 'log_every must be at least 1'),
    ('checkpoint_every', 0, 'checkpoint_every must be at least 1'),
  ],
)
def test_values_that_cannot_be(config, tmp_path, field, value, message):
  config.update_from_flattened_dict({field: value})
  if message is None:  # 24 images on 8 devices: nothing wrong
    train.open_run(config, tmp_path)
    assert (tmp_path / 'config.json').exists()
    return
  with pytest.raises(ValueError, match=message) as error:
    train.open_run(config, tmp_path)
  assert '\n' not in str(error.value)
  # So that the corrected command finds nothing in its way.
  assert not (tmp_path / 'config.json').exists()


def test_options_are_complained_of_before_data_is_touched(
  config, tmp_path, monkeypatch
):
  from jaxreid import experiment

  def fail(*args):
    raise AssertionError('data was opened')

  monkeypatch.setattr(experiment, 'open_table', fail)
  for field, value in (
    ('batch.identities', 1),
    ('batch.identities', 7),  # 28 images on 8 devices
    ('method.name', 'hat'),
    ('optimizer.name', 'lamb'),
    ('schedule.warmup_by', 'day'),
    ('evaluation.test_distance', 'cosine'),
  ):
    wrong = ml_collections.ConfigDict(config)
    wrong.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError):
      train.open_run(wrong, tmp_path)


@pytest.mark.parametrize('kind', ['file', 'under a file', 'read-only'])
def test_workdir_that_cannot_be_written(config, tmp_path, monkeypatch, kind):
  workdir = tmp_path / 'run'
  if kind == 'read-only':
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
  else:
    workdir.write_text('')
    workdir = workdir / 'deeper' if kind == 'under a file' else workdir
  with pytest.raises(ValueError, match='cannot be written') as error:
    train.open_run(config, workdir)
  assert str(workdir) in str(error.value)
  assert 'give another --workdir' in str(error.value)


def test_bugs_show_their_traceback(fails, tmp_path):
  folder = tmp_path / 'configs'
  folder.mkdir()
  for number, body in enumerate(
    [
      "  return None + 'a'",  # TypeError
      '  return ml_collections.ConfigDict().absent',  # AttributeError
      '  return {}[arg]',  # KeyError
    ]
  ):
    path = folder / f'broken{number}.py'
    path.write_text(
      f'import ml_collections\n\n\ndef get_config(arg=None):\n{body}\n'
    )
    child = fails(f'--config={path}', '--workdir=run')
    assert child.returncode == 1
    assert 'Traceback' in child.stderr
    assert 'error: ' not in child.stderr.splitlines()[0]
    assert body.strip() in child.stderr


def test_value_of_takes_the_last_of_either_form():
  value_of = command_line._value_of
  assert value_of('config', ['main', '--config=a', '--config', 'b']) == 'b'
  assert value_of('config', ['main', '--config', 'b', '-config=a=1']) == 'a=1'
  assert value_of('config', ['main', '--config.seed=1']) is None
