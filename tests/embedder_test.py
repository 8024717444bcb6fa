"""An Embedder gives what the method gives, from the workdir alone."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import jaxreid
from configs import lupi as lupi_config
from configs import xiv as xiv_config
from jaxreid import checkpoint, experiment, slim, train_state, workdir
from jaxreid.embedder import fit_pixels

ROOT = pathlib.Path(__file__).parents[1]


def make_workdir(folder, config, seed=0):
  """A run's workdir of 7 people with random weights: (method, state)."""
  config.dataset.image_size = (24, 12)
  config.backbone.nonlocal_blocks = False
  method = experiment.make_method(config, 7)
  optimizers = experiment.make_optimizers(config, method, 1)
  batch = {
    'visible': np.zeros((2, 24, 12, 3), np.uint8),
    'infrared': np.zeros((2, 24, 12, 3), np.uint8),
    'label': np.zeros(2, np.int32),
  }
  batch = jax.tree.map(jax.numpy.asarray, batch)
  create = jax.jit(
    lambda key: train_state.create(method, optimizers, key, batch),
    compiler_options={'xla_backend_optimization_level': 0},
  )
  state = create(jax.random.key(seed))
  workdir.claim(folder, config, 'no data')
  with checkpoint.open_checkpoints(folder) as checkpoints:
    checkpoint.save(checkpoints, state)
  return method, state


@pytest.fixture(scope='module')
def lupi(tmp_path_factory):
  folder = tmp_path_factory.mktemp('lupi')
  return folder, *make_workdir(folder, lupi_config.get_config())


@pytest.fixture(scope='module')
def images():
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (11, 24, 12, 3), np.uint8)


@pytest.mark.parametrize('modality', ['infrared', 'gray'])
def test_equals_the_method(lupi, images, modality):
  folder, method, state = lupi
  embedder = jaxreid.Embedder(folder)
  found = embedder(images, modality)
  expected = method.embed(state.variables, jnp.asarray(images), modality)
  assert found.shape == (11, 1, 256)
  assert_allclose(found, expected, atol=1e-5)


def test_xiv_has_two_vectors_of_a_visible_image(tmp_path, images):
  method, state = make_workdir(tmp_path, xiv_config.get_config())
  embedder = jaxreid.Embedder(tmp_path, devices=jax.devices()[:2])
  found = embedder(images, 'visible')
  expected = method.embed(state.variables, jnp.asarray(images), 'visible')
  assert found.shape == (11, 2, 256)
  assert_allclose(found, expected, atol=1e-5)
  assert embedder.test_distance == 'sum'


def test_images_of_any_size_are_fitted_as_in_training(lupi, images):
  embedder = jaxreid.Embedder(lupi[0])
  large = images[0].repeat(3, axis=0).repeat(2, axis=1)
  small = np.asarray(
    Image.fromarray(large).resize((12, 24), Image.Resampling.LANCZOS)
  )
  gray = images[1, :, :, 0]
  found = embedder([large, Image.fromarray(gray)])
  expected = embedder(np.stack([small, gray[..., None].repeat(3, axis=-1)]))
  assert_array_equal(found, expected)


def test_slim_or_not_is_the_same_network(lupi, images):
  folder = lupi[0]
  whole = jaxreid.Embedder(folder)
  assert whole.modalities == ('visible', 'infrared', 'gray')
  part = jaxreid.Embedder(slim.slim(folder).workdir)
  assert part.modalities == ('visible', 'infrared')
  assert part.identity == whole.identity
  assert_array_equal(part(images[:3]), whole(images[:3]))
  with pytest.raises(ValueError, match="not 'gray'"):
    part(images, 'gray')


def test_another_network_has_another_identity(lupi, tmp_path):
  make_workdir(tmp_path, lupi_config.get_config(), seed=1)
  one, other = jaxreid.Embedder(lupi[0]), jaxreid.Embedder(tmp_path)
  assert one.identity != other.identity


@pytest.mark.parametrize(
  'wrong', [np.zeros((1, 8, 8, 3)), np.zeros((1, 8, 8, 4), np.uint8)]
)
def test_other_pixels_are_refused(lupi, wrong):
  with pytest.raises(ValueError, match='normalised inside'):
    jaxreid.Embedder(lupi[0])(wrong)


def test_one_image_is_not_taken_for_its_rows(lupi, images):
  embedder = jaxreid.Embedder(lupi[0])
  for image in (images[0], jnp.asarray(images[0]), Image.fromarray(images[0])):
    with pytest.raises(ValueError, match='a list of one'):
      embedder(image)


def test_photographs_are_turned_upright(images):
  turned = Image.fromarray(np.rot90(images[0]))
  turned.getexif()[0x112] = 6  # shown a quarter clockwise
  assert_array_equal(fit_pixels(turned, (24, 12)), images[0])


def test_without_images_or_run_it_is_a_sentence(lupi, tmp_path):
  with pytest.raises(ValueError, match='no images'):
    jaxreid.Embedder(lupi[0])([])
  with pytest.raises(ValueError, match='holds no run'):
    jaxreid.Embedder(tmp_path)
  config = (lupi[0] / 'config.json').read_text()
  (tmp_path / 'config.json').write_text(config)
  with pytest.raises(ValueError, match='no checkpoint'):
    jaxreid.Embedder(tmp_path)


def test_importing_jaxreid_stays_cheap():
  code = "import jaxreid, sys; assert 'jax' not in sys.modules"
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
