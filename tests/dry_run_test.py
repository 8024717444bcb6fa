"""The dry run: its sentences, its advice, and a tiny compilation."""

import importlib.util
import subprocess
import sys

import pytest

from configs import lupi as lupi_config
from jaxreid import dry_run, topology
from jaxreid.chips import CHIPS
from jaxreid.collectives import Collective
from jaxreid.floor import Program
from jaxreid.topology import Slice

LIBTPU = importlib.util.find_spec('libtpu') is not None
SLICE = Slice('v5e:2x2', CHIPS['v5e'], (2, 2), [None] * 4)


@pytest.mark.parametrize(
  ('name', 'chip', 'shape'),
  [('v5e:16x16', 'v5e', (16, 16)), ('v4:2x2x1', 'v4', (2, 2, 1))],
)
def test_topologies(name, chip, shape):
  assert topology.parse_topology(name) == (chip, shape)


@pytest.mark.parametrize(
  'name',
  [
    *('v5e', 'v5e:', 'v9:2x2', 'v5e:2*2', 'v5e:0x2'),
    *('v5e:2x2x2', 'v5e:32x32', 'v4:2x2'),
  ],
)
def test_a_topology_that_is_none(name):
  with pytest.raises(ValueError, match=f'--topology={name[:3]}'):
    topology.parse_topology(name)


def test_without_the_compiler(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=r'pip install .*tpu-dry-run'):
    topology.open_slice('v5e:2x2')


def test_devices_share_a_chip():
  slice_ = Slice('v3:2x2', CHIPS['v3'], (2, 2), [None] * 8)
  assert slice_.devices_per_chip == 2
  assert slice_.memory == 16 * 2**30


@pytest.mark.parametrize(
  ('dataset', 'classes'),
  [('sysu_mm01', 395), ('regdb', 206), ('npu_reid', None)],
)
def test_published_classes(dataset, classes):
  config = lupi_config.get_config(f'dataset={dataset}')
  found = dry_run.published_classes(config)
  assert found == classes or (classes is None and found > 100)
  config.dataset.name = 'mine'
  with pytest.raises(ValueError, match=r'mine .*--classes'):
    dry_run.published_classes(config)


def test_what_fits_is_described(capsys):
  gathered = Collective('all-gather', ((32, 256),), 32768, 4, '')
  program = Program(int(1e9), int(2e9), int(4e9), 2e12, 8e9, [gathered])
  config = lupi_config.get_config()
  assert dry_run.describe(program, config, SLICE)
  out = capsys.readouterr().out
  assert '4.00 GB of 16.00 GB (25%): fits' in out
  assert '2,000.0 GFLOP' in out
  assert 'all-gather: 1, 0.03 MB; the largest 0.03 MB, (32, 256)' in out
  assert 'compute 10.2 ms' in out
  assert '--batch' not in out


def test_what_does_not_fit_comes_with_advice(capsys):
  program = Program(int(2e9), int(30e9), int(30e9), 2e12, 8e9, [])
  config = lupi_config.get_config()
  config.batch.identities = 64
  assert not dry_run.describe(program, config, SLICE)
  out = capsys.readouterr().out
  # 64 identities take 28 GB beside the arguments, and 14 GB are free.
  assert '--batch=32,' in out
  assert 'remat=True' in out
  assert 'bfloat16' in out
  config.backbone.remat, config.backbone.dtype = True, 'bfloat16'
  advice = '\n'.join(dry_run.advice(config, SLICE))
  assert 'remat' not in advice
  assert 'bfloat16' not in advice
  assert '--batch=32,' in advice  # half of what the compiler refused


@pytest.mark.parametrize('identities', [1, 13])
def test_more_people_than_there_are(identities):
  config = lupi_config.get_config('dataset=sysu_mm01')
  config.batch.identities = identities
  with pytest.raises(ValueError, match=rf'{identities} identities .*2 to 12'):
    dry_run.check_identities(config, 12)
  config.batch.identities = 12
  dry_run.check_identities(config, 12)


def test_the_compilers_refusal_says_how_much_would_fit():
  refusal = (
    'Ran out of memory on HBM, the total memory required for HLO temporaries '
    '(54.58G) exceeds available HBM (15.75G).'
  )
  share = dry_run._share_that_fits(refusal)
  assert share == pytest.approx(0.26, abs=0.01)
  assert dry_run._share_that_fits('something else') == 0.5
  config = lupi_config.get_config('dataset=sysu_mm01')
  config.batch.identities = 320
  assert '--batch=83,' in '\n'.join(dry_run.advice(config, SLICE, share=share))


def _run(*flags):
  return subprocess.run(
    [sys.executable, '-m', 'jaxreid.dry_run', *flags],
    capture_output=True,
    text=True,
  )


def test_a_missing_topology_is_a_sentence():
  done = _run('--config=configs/lupi.py')
  assert done.returncode == 1
  assert done.stderr.startswith('error: --topology is missing')


@pytest.mark.skipif(not LIBTPU, reason='needs libtpu')
def test_a_batch_that_the_chips_cannot_share():
  done = _run('--config=configs/lupi.py', '--topology=v5e:4x4', '--batch=3')
  assert done.returncode == 1
  assert 'error: A batch of 12 images' in done.stderr


@pytest.mark.skipif(not LIBTPU, reason='needs libtpu')
@pytest.mark.slow
def test_a_tiny_compilation():
  done = _run(
    '--config=configs/lupi.py:ablation=visible_only',
    '--config.dataset.image_size=(32, 16)',
    '--config.backbone.nonlocal_blocks=False',
    '--config.evaluation.batch_size=8',
    '--topology=v5e:2x2',
    '--classes=12',
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.count(': fits') == 2
  assert 'all-reduce' in done.stdout
