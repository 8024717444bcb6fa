"""`python -m jaxreid.models.pretrained`: what it prints, and its mistakes."""

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jaxreid.models import pretrained
from jaxreid.models.pretrained import __main__ as command
from tests.models.pretrained_test import _torch_state_dict


@functools.cache
def _resnet18():
  return _torch_state_dict('resnet18')


@pytest.fixture
def run(capsys):
  """run(*arguments) -> (status, lines of stdout, stderr)."""

  def run(*arguments):
    try:
      command.main([str(argument) for argument in arguments])
      status = 0
    except SystemExit as error:
      status = error.code
    out, err = capsys.readouterr()
    return status, out.splitlines(), err

  return run


def test_inspect(run, tmp_path):
  path = tmp_path / 'w.npz'
  np.savez(path, **_resnet18())
  status, lines, err = run('inspect', path)
  assert (status, err) == (0, '')
  # 11,689,512 is torchvision's own count.
  assert lines == [
    f'{path}: npz',
    '122 tensors (102 float32, 20 int64): 11,689,512 parameters and 9,620 '
    'statistics',
    f'SHA-256: {pretrained.checksum(path)}',
    'matches: resnet18, ImageNet stages',
    'use it with --config.backbone.name=resnet18 '
    '--config.backbone.pretrained=FILE',
  ]


def test_the_nearest_and_what_it_lacks(run, tmp_path):
  state = dict(_resnet18())
  for i in range(2):
    for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
      del state[f'layer4.{i}.bn2.{leaf}']
  state['layer2.0.conv1.weight'] = np.zeros((3, 3))
  state['layer9.weight'] = np.zeros(3)
  state['layer8.weight'] = np.zeros(3)
  state['layer7.weight'] = np.zeros(3)
  np.savez(tmp_path / 'w.npz', **state)
  status, lines, _ = run('inspect', tmp_path / 'w.npz')
  assert status == 0
  assert 'nearest: resnet18, ImageNet stages, but for 12 problems:' in lines
  assert '  layer4.0.bn2.bias: missing' in lines
  assert lines[-1] == '  ... and 2 more'


def test_nothing_known(run, tmp_path):
  np.savez(tmp_path / 'w.npz', first=np.zeros(3), second=np.zeros(2))
  status, lines, _ = run('inspect', tmp_path / 'w.npz')
  assert status == 0
  assert lines[-1] == (
    'matches nothing known; the first names are first, second'
  )


def test_digits_in_the_name(run, tmp_path):
  path = tmp_path / 'w.npz'
  np.savez(path, w=np.zeros(3))
  good = pretrained.checksum(path)[:8]
  for digits, verdict in (
    (good, 'which it is'),
    ('0676ba61', 'which it is NOT'),
  ):
    named = tmp_path / f'resnet50-{digits}.pth'
    named.write_bytes(path.read_bytes())
    _, lines, _ = run('inspect', named)
    (line,) = (line for line in lines if 'the name promises' in line)
    assert f'promises {digits}..., {verdict}' in line
    assert ('NOT' in line) == ('NOT' in verdict)


def test_convert(run, tmp_path):
  pytest.importorskip('safetensors')
  state = {
    'a': np.arange(6.0).reshape(2, 3),
    'half': np.float16([1.5, 2.5]),
    'count': np.array(3),
  }
  np.savez(tmp_path / 'w.npz', **state)
  out = tmp_path / 'w.safetensors'
  status, lines, err = run('convert', tmp_path / 'w.npz', out)
  assert (status, err) == (0, '')
  assert lines[-1] == f'written to {out}'
  weights = pretrained.read(out)
  assert weights.types == {'float64': 1, 'float32': 1, 'int64': 1}
  for name, value in state.items():
    assert_array_equal(weights.tensors[name], value)
  before = out.read_bytes()
  status, _, err = run('convert', tmp_path / 'w.npz', out)
  assert (status, out.read_bytes()) == (1, before)
  assert err == f'error: {out} is there already; delete it or name another\n'


@pytest.mark.parametrize(
  ('arguments', 'part'),
  [
    ([], 'COMMAND'),
    (['look', 'w.npz'], "invalid choice: 'look'"),
    (['inspect'], 'FILE'),
    (['inspect', 'none.npz'], 'no weights file none.npz'),
    (['inspect', 'text'], 'text is not a file of weights'),
    (['convert', 'text', 'out.npz'], 'out.npz must end in .safetensors'),
    (['convert', 'text', 'out.safetensors'], 'text is not a file of weights'),
    (['convert', 'w.npz', 'no/out.safetensors'], 'no/out.safetensors'),
  ],
)
def test_mistakes(run, tmp_path, monkeypatch, arguments, part):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'text').write_text('anything')
  np.savez(tmp_path / 'w.npz', w=np.zeros(2))
  before = sorted(os.listdir(tmp_path))
  status, lines, err = run(*arguments)
  assert (status, lines) == (1, [])
  assert err.startswith('error: ')
  assert part in err
  assert err.count('\n') == 1
  assert sorted(os.listdir(tmp_path)) == before


def test_as_a_user_starts_it(tmp_path, child_environment):
  np.savez(tmp_path / 'w.npz', w=np.zeros(3))
  for name, status in (('w.npz', 0), ('none.npz', 1)):
    child = subprocess.run(
      [sys.executable, '-m', 'jaxreid.models.pretrained', 'inspect', name],
      cwd=tmp_path,
      env=child_environment,
      capture_output=True,
      text=True,
    )
    assert child.returncode == status
    assert 'Traceback' not in child.stderr
