"""What can be read is read; what would run code is refused and not run."""

import collections
import json
import os
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jaxreid.models import pretrained
from jaxreid.models.pretrained.unwrap import plain_tensors


def _state(seed=0):
  rng = np.random.default_rng(seed)
  return {
    'a.weight': rng.normal(size=(2, 3)).astype('float32'),
    'b': rng.normal(size=4).astype('float16'),
    'steps': np.array(7),
  }


class _Payload:
  """Unpickled, it creates a folder."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return (os.mkdir, (self.path,))


def _malicious(form, path, mark):
  """A file that a plain unpickler would create `mark` on reading."""
  code = pickle.dumps({'weight': _Payload(mark)}, protocol=2)
  if form == 'legacy':
    path.write_bytes(code)
  else:
    with zipfile.ZipFile(path, 'w') as archive:
      archive.writestr('archive/data.pkl', code)
      archive.writestr('archive/version', '3\n')
      archive.writestr('archive/byteorder', 'little')
  return path


@pytest.fixture
def no_torch(monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)


def test_the_payload_works(tmp_path):
  """Or else the tests below would show nothing."""
  mark = tmp_path / 'mark'
  pickle.loads(pickle.dumps(_Payload(mark), protocol=2))
  assert mark.exists()


@pytest.mark.parametrize('suffix', ['npz', 'safetensors', 'pth'])
def test_the_content_tells_the_format(tmp_path, suffix):
  """Whatever the file is called."""
  safetensors = pytest.importorskip('safetensors.numpy')
  path = tmp_path / f'w.{suffix}'
  with path.open('wb') as file:
    np.savez(file, **_state())
  as_npz = pretrained.read(path)
  safetensors.save_file(_state(), path)
  as_safetensors = pretrained.read(path)
  for weights, form in ((as_npz, 'npz'), (as_safetensors, 'safetensors')):
    assert weights.format == form
    assert weights.types == {'float32': 1, 'float16': 1, 'int64': 1}
    assert not weights.notes
    assert weights.tensors['b'].dtype == np.float32
    for name, value in _state().items():
      assert_array_equal(weights.tensors[name], value)


def _safetensors(kind, shape, data):
  """A file of one tensor, x, put together by hand."""
  entry = {'dtype': kind, 'shape': shape, 'data_offsets': [0, len(data)]}
  header = json.dumps({'x': entry}).encode()
  return len(header).to_bytes(8, 'little') + header + data


def test_bfloat16_becomes_float32(tmp_path):
  pytest.importorskip('safetensors')
  # The upper halves of the float32 numbers.
  data = np.float32([1.5, -2.25, 2.0**127]).tobytes()
  halves = b''.join(data[i + 2 : i + 4] for i in (0, 4, 8))
  path = tmp_path / 'w.safetensors'
  path.write_bytes(_safetensors('BF16', [3], halves))
  weights = pretrained.read(path)
  assert weights.types == {'bfloat16': 1}
  assert weights.tensors['x'].dtype == np.float32
  assert_array_equal(weights.tensors['x'], np.float32([1.5, -2.25, 2.0**127]))


def test_a_type_without_a_meaning_here(tmp_path):
  pytest.importorskip('safetensors')
  path = tmp_path / 'w.safetensors'
  path.write_bytes(_safetensors('F8_E4M3', [2], b'ab'))
  with pytest.raises(ValueError, match="tensors of type 'F8_E4M3'"):
    pretrained.read(path)


@pytest.mark.parametrize(
  ('content', 'reason'),
  [
    (b'', 'it is empty'),
    (b'anything else', 'neither .safetensors, .npz nor PyTorch'),
    (b'\n<!DOCTYPE html><html>', 'looks like a web page'),
    (b'version https://git-lfs.github.com/spec/v1\n', 'a pointer of Git LFS'),
    (b'PK\x03\x04 cut off', 'or is truncated'),
    (b'\x40\0\0\0\0\0\0\0{"a": ', 'is not a safetensors file'),
  ],
)
def test_what_is_no_weights_file(tmp_path, content, reason):
  path = tmp_path / 'w.pth'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=reason) as error:
    pretrained.read(path)
  assert str(path) in str(error.value)


@pytest.mark.parametrize('fraction', [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize('form', ['npz', 'safetensors'])
def test_truncated_files(tmp_path, form, fraction):
  safetensors = pytest.importorskip('safetensors.numpy')
  path = tmp_path / 'w'
  with path.open('wb') as file:
    if form == 'npz':
      np.savez(file, **_state())
    else:
      file.write(safetensors.save(_state()))
  whole = path.read_bytes()
  path.write_bytes(whole[: int(fraction * len(whole))])
  with pytest.raises(ValueError, match='truncated'):
    pretrained.read(path)


def test_a_damaged_member_of_an_archive(tmp_path):
  path = tmp_path / 'w.npz'
  with path.open('wb') as file:
    np.savez(file, x=np.zeros(100))
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  with pytest.raises(ValueError, match='truncated: Bad CRC'):
    pretrained.read(path)


def test_archives_of_something_else(tmp_path):
  path = tmp_path / 'w.zip'
  for member, reason in (
    ('readme.txt', 'neither NumPy nor PyTorch'),
    ('model/constants.pkl', 'TorchScript archive, which holds code'),
  ):
    with zipfile.ZipFile(path, 'w') as archive:
      archive.writestr(member, 'x')
    with pytest.raises(ValueError, match=reason):
      pretrained.read(path)


def test_objects_inside_an_archive_are_refused(tmp_path):
  path = tmp_path / 'w.npz'
  mark = tmp_path / 'mark'
  np.savez(path, a=np.array([_Payload(mark)], object))
  with pytest.raises(ValueError, match=r'is not an \.npz file of weights'):
    pretrained.read(path)
  assert not mark.exists()


def test_no_file_and_no_tensors(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'no weights file .*weights\.md'):
    pretrained.read(tmp_path / 'none.npz')
  np.savez(tmp_path / 'e.npz', x=np.array('text'))
  with pytest.raises(ValueError, match='x: of type <U4'):
    pretrained.read(tmp_path / 'e.npz')


@pytest.mark.parametrize('form', ['zip', 'legacy'])
def test_without_torch_nothing_is_run(tmp_path, no_torch, form):
  mark = tmp_path / 'mark'
  path = _malicious(form, tmp_path / 'w.pth', mark)
  with pytest.raises(ImportError, match='PyTorch is not installed') as error:
    pretrained.read(path)
  for part in ("pip install 'torch>=2.10'", f'convert {path} {tmp_path}/w.saf'):
    assert part in str(error.value)
  assert not mark.exists()


@pytest.mark.parametrize('version', ['1.13.1', '2.5.1', '2.9.1+cu128'])
def test_an_old_torch_is_not_trusted(tmp_path, monkeypatch, version):
  """Below 2.10 `weights_only` has holes."""
  mark = tmp_path / 'mark'
  path = _malicious('legacy', tmp_path / 'w.pth', mark)
  old = types.SimpleNamespace(__version__=version)  # not even a `load`
  monkeypatch.setitem(sys.modules, 'torch', old)
  with pytest.raises(ImportError, match='can run code') as error:
    pretrained.read(path)
  assert version in str(error.value)
  assert not mark.exists()


@pytest.mark.parametrize('wrapper', ['state_dict', 'model', 'net'])
def test_unwrapping(wrapper):
  state = {f'module.{name}': value for name, value in _state().items()}
  content = {wrapper: state, 'epoch': 80, 'optimizer': {'step': np.zeros(3)}}
  tensors, types_, notes = plain_tensors({'state_dict': content})
  assert list(tensors) == list(_state())
  assert types_ == {'float32': 1, 'float16': 1, 'int64': 1}
  assert notes == (
    "unwrapped 'state_dict'",
    f"unwrapped '{wrapper}'; left out beside it: epoch, optimizer",
    "took the prefix 'module.' of DataParallel off all names",
  )


def test_bookkeeping_among_the_tensors():
  tensors, _, notes = plain_tensors({**_state(), 'epoch': 3, 'acc': 0.5})
  assert list(tensors) == list(_state())
  assert notes == (
    "left out 'epoch', which is no tensor",
    "left out 'acc', which is no tensor",
  )


def test_a_prefix_of_some_names_stays():
  tensors, _, notes = plain_tensors({'module.a': np.zeros(1), 'b': np.zeros(1)})
  assert list(tensors) == ['module.a', 'b']
  assert not notes


def test_everything_odd_is_named():
  content = {'a': np.zeros(1), 'arch': 'resnet', 'sizes': [1], 3: np.zeros(2)}
  with pytest.raises(ValueError, match='3 entries') as error:
    plain_tensors(content)
  for line in ('arch: a str', 'sizes: a list', '3: not a name'):
    assert line in str(error.value)
  with pytest.raises(ValueError, match="beside it, more tensors in 'ema'"):
    plain_tensors({'model': _state(), 'ema': {'deep': [np.zeros(1)]}})
  with pytest.raises(ValueError, match="more tensors in 'model'"):
    plain_tensors({'model': _state(), 'state_dict': _state()})
  with pytest.raises(ValueError, match='holds no tensors'):
    plain_tensors({})


class TestWithTorch:
  """The same with PyTorch reading and writing."""

  pytestmark = pytest.mark.torch

  @pytest.fixture(autouse=True)
  def torch(self):
    return pytest.importorskip('torch')

  @pytest.fixture(params=['zip', 'legacy'])
  def save(self, torch, request, tmp_path):
    def save(content):
      path = tmp_path / 'w.pth'
      torch.save(
        content, path, _use_new_zipfile_serialization=request.param == 'zip'
      )
      return path

    save.form = request.param
    return save

  def test_both_formats(self, torch, save):
    state = {name: torch.from_numpy(v) for name, v in _state().items()}
    state['half'] = torch.tensor([1.5, -2.25], dtype=torch.bfloat16)
    state['grad'] = torch.nn.Parameter(torch.arange(3.0))
    state['strided'] = torch.arange(6.0).reshape(2, 3).T
    weights = pretrained.read(save(collections.OrderedDict(state)))
    assert weights.format == f'PyTorch ({save.form})'
    assert weights.types['bfloat16'] == 1
    assert weights.tensors['half'].dtype == np.float32
    for name, value in state.items():
      expected = value.detach().float().numpy()
      assert_array_equal(weights.tensors[name], expected)

  def test_accuracies_of_numpy_are_left_out(self, torch, save):
    """As AGW's train.py saves them; PyTorch alone refuses the file."""
    path = save(
      {
        'net': {'module.w': torch.ones(2)},
        'acc': np.linspace(0, 1, 3),
        'mAP': np.float64(0.5),
        'mINP': np.float32(0.25),
        'epoch': 9,
      }
    )
    with pytest.raises(pickle.UnpicklingError):
      torch.load(path, weights_only=True)
    weights = pretrained.read(path)
    assert_array_equal(weights.tensors['w'], [1, 1])
    assert weights.notes[0] == (
      "unwrapped 'net'; left out beside it: acc, mAP, mINP, epoch"
    )

  @pytest.mark.parametrize('form', ['zip', 'legacy'])
  def test_code_is_refused_and_not_run(self, torch, tmp_path, form):
    mark = tmp_path / 'mark'
    path = _malicious(form, tmp_path / 'w.pth', mark)
    with pytest.raises(ValueError, match='nothing of it was run') as error:
      pretrained.read(path)
    assert 'wants posix.mkdir to be called' in str(error.value)
    assert 'weights_only' not in str(error.value)
    assert not mark.exists()

  def test_code_among_weights_is_refused(self, torch, save, tmp_path):
    mark = tmp_path / 'mark'
    path = save({'w': torch.ones(2), 'epoch': _Payload(mark)})
    with pytest.raises(ValueError, match='nothing of it was run'):
      pretrained.read(path)
    assert not mark.exists()

  def test_a_whole_module_is_refused(self, torch, save):
    with pytest.raises(ValueError, match=r'wants torch\.nn.*state_dict\(\)'):
      pretrained.read(save(torch.nn.Linear(2, 3)))

  def test_what_is_no_dictionary(self, torch, save):
    with pytest.raises(ValueError, match='holds a list, not tensors by name'):
      pretrained.read(save([torch.ones(2)]))

  @pytest.mark.parametrize('fraction', [0.02, 0.5, 0.99])
  def test_truncated(self, torch, save, fraction):
    path = save({'w': torch.arange(1000.0)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(fraction * len(whole))])
    with pytest.raises(ValueError, match='truncated'):
      pretrained.read(path)

  def test_sparse_and_complex_tensors_are_named(self, torch, save):
    state = {
      'dense': torch.ones(2),
      'complex': torch.ones(2, dtype=torch.complex64),
    }
    with pytest.raises(ValueError, match='complex: of type complex64'):
      pretrained.read(save(state))


def test_writing_is_whole_or_not_at_all(tmp_path):
  pytest.importorskip('safetensors.numpy')
  from jaxreid.models.pretrained import files

  strided = {'t': np.arange(6.0).reshape(2, 3).T, 'scalar': np.array(2)}
  files.write_safetensors(strided, tmp_path / 'w.safetensors')
  assert [p.name for p in tmp_path.iterdir()] == ['w.safetensors']
  for name, value in pretrained.load(tmp_path / 'w.safetensors').items():
    assert_array_equal(value, strided[name])


def test_checksum(tmp_path):
  """SHA-256 of 'abc' as FIPS 180 gives it."""
  path = tmp_path / 'abc'
  path.write_bytes(b'abc')
  assert pretrained.checksum(path) == (
    'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
  )
