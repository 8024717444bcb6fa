"""What is exported gives the network's vectors, where jaxreid is not."""

import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

import jaxreid
from configs import baseline as baseline_config
from configs import dual_swin as dual_swin_config
from configs import lupi as lupi_config
from configs import tsgan as tsgan_config
from configs import xiv as xiv_config
from jaxreid import checkpoint, experiment, export, train_state, workdir
from jaxreid.exports import stablehlo

SIZE = (24, 12)
# Appended to the example of README.md.
PROOF = """
import sys
for name in ('jaxreid', 'flax', 'orbax'):
  assert name not in sys.modules, name
np.save('vectors.npy', vectors)
"""


def make_workdir(folder, config):
  """A run's workdir of 7 people with random weights."""
  config.dataset.image_size = SIZE
  if config.backbone.name.startswith('resnet'):
    config.backbone.nonlocal_blocks = False
  method = experiment.make_method(config, 7)
  optimizers = experiment.make_optimizers(config, method, 1)
  batch = {
    'visible': jax.numpy.zeros((2, *SIZE, 3), np.uint8),
    'infrared': jax.numpy.zeros((2, *SIZE, 3), np.uint8),
    'label': jax.numpy.zeros(2, np.int32),
  }
  create = jax.jit(
    lambda key: train_state.create(method, optimizers, key, batch),
    compiler_options={'xla_backend_optimization_level': 0},
  )
  state = create(jax.random.key(0))
  workdir.claim(folder, config, 'no data')
  with checkpoint.open_checkpoints(folder) as checkpoints:
    checkpoint.save(checkpoints, state)


@pytest.fixture(scope='module')
def xiv(tmp_path_factory):
  folder = tmp_path_factory.mktemp('xiv') / 'run'
  folder.mkdir()
  make_workdir(folder, xiv_config.get_config())
  return folder


@pytest.fixture(scope='module')
def exported(xiv):
  export.main([str(xiv)])
  return xiv / 'export' / 'stablehlo'


def picture(size, seed=0):
  """Waves and some noise."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[: size[0], : size[1]]
  waves = 100 * np.sin(9 * y / size[0])[..., None] * rng.uniform(-1, 1, 3)
  tilt = 30 * np.cos(5 * x / size[1])[..., None]
  noise = rng.normal(0, 5, (*size, 3))
  return np.clip(128 + waves + tilt + noise, 0, 255).astype(np.uint8)


def run_example(folder, pixels):
  """The vectors of the README's example, in a process of its own."""
  (example,) = re.findall(
    r'```python\n(.*?)```', (folder / 'README.md').read_text(), re.DOTALL
  )
  Image.fromarray(pixels).save(folder / 'person.png')
  done = subprocess.run(
    [sys.executable, '-W', 'ignore', '-c', example + PROOF],
    cwd=folder,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return np.load(folder / 'vectors.npy')


def test_the_example_gives_the_same_without_jaxreid(xiv, exported):
  pixels = picture(SIZE)
  expected = jaxreid.Embedder(xiv)([pixels], 'visible')
  found = run_example(exported, pixels)
  assert found.shape == (1, 2, 256)
  assert_allclose(found, expected, atol=1e-4)
  # Of another size, resized inside.
  pixels = picture((90, 37), seed=1)
  expected = jaxreid.Embedder(xiv)([pixels], 'visible')
  assert_allclose(run_example(exported, pixels), expected, atol=1e-4)


def test_several_pictures_by_the_same_file(xiv, exported):
  pixels = np.stack([picture(SIZE, seed) for seed in range(5)])
  found = stablehlo.run(exported, 'infrared', pixels)
  expected = jaxreid.Embedder(xiv)(pixels, 'infrared')
  assert found.dtype == np.float32
  assert_allclose(found, expected, atol=1e-4)


def test_normalised_pictures_are_refused(exported):
  data = bytearray((exported / 'infrared.stablehlo').read_bytes())
  pixels = picture(SIZE)[None] / np.float32(255)
  with pytest.raises(ValueError, match='uint8'):
    jax.export.deserialize(data).call(pixels)


def test_it_says_what_it_is(xiv, exported):
  facts = json.loads((exported / 'export.json').read_text())
  assert facts['checkpoint'] == {
    'workdir': 'run',
    'step': 0,
    'identity': jaxreid.Embedder(xiv).identity,
  }
  assert facts['jaxreid'] == jaxreid.__version__
  assert facts['platforms'] == ['cpu', 'cuda', 'tpu']
  assert list(facts['programs']) == ['visible', 'infrared']
  for modality, program in facts['programs'].items():
    path = exported / program['file']
    assert path.stat().st_size == program['bytes']
    read = jax.export.deserialize(bytearray(path.read_bytes()))
    assert read.platforms == ('cpu', 'cuda', 'tpu')
    vectors = {'visible': 2, 'infrared': 1}[modality]
    assert program['output']['shape'] == ['batch', vectors, 256]
    assert program['largest_difference'] < 1e-4


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    (['RUN'], 'exists; delete it, or give another --out'),
    (['RUN', '--out=OUT', '--format=onnx'], "pip install 'jaxreid[onnx]'"),
    (['RUN', '--out=OUT', '--format=savedmodel'], "'jaxreid[savedmodel]'"),
    (['OUT'], 'holds no run'),
    (['EMPTY'], 'has no checkpoint'),
  ],
)
def test_mistakes_are_sentences(
  xiv, exported, tmp_path, monkeypatch, capsys, arguments, sentence
):
  del exported
  for name in ('jax2onnx', 'tensorflow'):
    monkeypatch.setitem(sys.modules, name, None)
  empty = tmp_path / 'empty'
  empty.mkdir()
  (empty / 'config.json').write_bytes((xiv / 'config.json').read_bytes())
  names = {'RUN': xiv, 'OUT': tmp_path / 'out', 'EMPTY': empty}
  for name, path in names.items():
    arguments = [a.replace(name, str(path)) for a in arguments]
  with pytest.raises(SystemExit) as stop:
    export.main(arguments)
  assert stop.value.code == 1
  assert sentence in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def test_a_program_that_differs_is_not_kept(xiv, tmp_path, monkeypatch, capsys):
  right = stablehlo.run
  monkeypatch.setattr(stablehlo, 'run', lambda *a: right(*a) + 2e-4)
  out = tmp_path / 'out'
  with pytest.raises(SystemExit):
    export.main([str(xiv), f'--out={out}', '--modality=infrared'])
  assert 'gives other vectors than the network' in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def test_onnx_runtime_has_no_bfloat16(tmp_path, capsys):
  config = xiv_config.get_config()
  config.backbone.dtype = 'bfloat16'
  (tmp_path / 'config.json').write_text(workdir.to_json(config))
  with pytest.raises(SystemExit):
    export.main([str(tmp_path), '--format=onnx'])
  assert 'bfloat16, in which ONNX Runtime' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
  'config', [baseline_config, lupi_config, dual_swin_config, tsgan_config]
)
def test_every_method(tmp_path, config):
  make_workdir(tmp_path, config.get_config())
  modalities = ('visible', 'infrared', 'gray')
  # Compares with the network and raises if they differ.
  export.export(tmp_path, 'stablehlo', tmp_path / 'out', modalities)
  facts = json.loads((tmp_path / 'out' / 'export.json').read_text())
  assert list(facts['programs']) == list(modalities)


def other_format(xiv, folder, kind):
  """Exported and loaded as the README says, at two sizes."""
  export.export(xiv, kind, folder / 'out')
  for pixels in (picture(SIZE), picture((60, 31))):
    expected = jaxreid.Embedder(xiv)([pixels], 'visible')
    found = run_example(folder / 'out', pixels)
    assert_allclose(found, expected, atol=1e-4)


def test_onnx(xiv, tmp_path):
  pytest.importorskip('jax2onnx')
  pytest.importorskip('onnxruntime')
  other_format(xiv, tmp_path, 'onnx')


@pytest.mark.tensorflow
def test_saved_model(xiv, tmp_path):
  pytest.importorskip('tensorflow')
  other_format(xiv, tmp_path, 'savedmodel')
