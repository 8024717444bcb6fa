"""Decoded tables: right pixels, decoded once, never half made."""

import io
import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxreid.data import source
from jaxreid.data.source import Records, decode_image, fit_image, open_table

SIZE = (24, 12)


@pytest.fixture
def data_dir(tiny_data_dir, tmp_path):
  """A copy of the tiny set that a test may damage."""
  copy = tmp_path / 'data'
  shutil.copytree(tiny_data_dir, copy, ignore=shutil.ignore_patterns('decoded'))
  return copy


def opened(data_dir, split='test', size=SIZE):
  return open_table('synthetic_reid', 'tiny', split, size, str(data_dir))


def folder_of(data_dir) -> pathlib.Path:
  return data_dir / 'synthetic_reid' / 'tiny' / '1.1.0'


def decoded_files(data_dir) -> dict[str, int]:
  folder = folder_of(data_dir) / 'decoded'
  files = [p for p in sorted(folder.glob('*')) if p.name[0] != '.']
  return {p.name: p.stat().st_mtime_ns for p in files}


def test_pixels_and_labels_are_those_of_the_records(data_dir):
  table = opened(data_dir)
  records = list(
    tfds.builder_from_directory(folder_of(data_dir)).as_data_source(
      'test', decoders={'image': tfds.decode.SkipDecoding()}
    )
  )
  assert table.images.shape == (240, *SIZE, 3)
  assert table.images.dtype == np.uint8
  for row, record in enumerate(records):
    for field, column in table.records._asdict().items():
      assert column[row] == record[field], (row, field)
  for row in (0, 101, 239):
    image = Image.open(io.BytesIO(records[row]['image'])).convert('RGB')
    small = image.resize((SIZE[1], SIZE[0]), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(table.images[row], np.asarray(small))


@pytest.mark.parametrize('dtype', ['<u2', '>u2', 'int32'])
def test_sixteen_bits_of_gray_keep_their_range(dtype):
  values = np.linspace(0, 65535, 24 * 12).reshape(SIZE).astype(dtype)
  file = io.BytesIO()
  Image.fromarray(values).save(file, 'TIFF')
  found = decode_image(file.getvalue(), SIZE)
  np.testing.assert_array_equal(found, (values // 256)[..., None].repeat(3, 2))


@pytest.mark.parametrize(
  'pixel', [np.float32(0.5), np.int32(70000), np.int32(-1)]
)
def test_pixels_without_a_range_are_refused(pixel):
  image = Image.fromarray(np.full((4, 4), pixel))
  with pytest.raises(ValueError, match='8 bits a channel'):
    fit_image(image, SIZE)


def test_labels_are_int64_and_complete(data_dir):
  records = opened(data_dir).records
  assert {c.dtype for c in records} == {np.dtype(np.int64)}
  assert set(records.identity.tolist()) == {501, 502, 503, 504}
  of_camera = {
    (int(c), int(place), int(m))
    for c, place, m in zip(
      records.camera, records.location, records.modality, strict=True
    )
  }
  assert of_camera == {
    (1, 1, source.VISIBLE),
    (2, 2, source.VISIBLE),
    (3, 2, source.INFRARED),
    (4, 4, source.VISIBLE),
    (5, 5, source.VISIBLE),
    (6, 6, source.INFRARED),
  }


def test_an_image_of_the_right_size_is_not_resampled():
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (24, 12, 3), np.uint8)
  png = io.BytesIO()
  Image.fromarray(pixels).save(png, 'PNG')
  np.testing.assert_array_equal(decode_image(png.getvalue(), SIZE), pixels)


def test_one_channel_becomes_three_equal_ones():
  gray = np.random.default_rng(1).integers(0, 256, SIZE, np.uint8)
  png = io.BytesIO()
  Image.fromarray(gray).save(png, 'PNG')
  three = np.repeat(gray[:, :, None], 3, 2)
  np.testing.assert_array_equal(decode_image(png.getvalue(), SIZE), three)


def test_shrinking_is_antialiased():
  # A pattern finer than the new pixels has to become an even gray.
  fine = np.zeros((240, 120, 3), np.uint8)
  fine[::2] = 200
  png = io.BytesIO()
  Image.fromarray(fine).save(png, 'PNG')
  small = decode_image(png.getvalue(), SIZE)
  assert abs(small.astype(int) - 100).max() < 12


def test_a_second_start_decodes_nothing(data_dir, monkeypatch):
  first = opened(data_dir)
  files = decoded_files(data_dir)
  assert len(files) == 2

  def fail(*args):
    raise AssertionError('decoded again')

  monkeypatch.setattr(source, 'decode_image', fail)
  second = opened(data_dir)
  assert decoded_files(data_dir) == files
  assert isinstance(second.images, np.memmap)
  np.testing.assert_array_equal(first.images, second.images)
  assert second.fingerprint == first.fingerprint
  assert len(first.fingerprint) == 64


def test_size_and_split_have_tables_of_their_own(data_dir):
  shapes = [
    opened(data_dir, split, size).images.shape
    for split, size in (
      ('test', (24, 12)),
      ('test', (12, 24)),
      ('train', (24, 12)),
    )
  ]
  assert shapes == [(240, 24, 12, 3), (240, 12, 24, 3), (480, 24, 12, 3)]
  # Nor does one overwrite another.
  assert opened(data_dir).images.shape == (240, 24, 12, 3)
  assert len(decoded_files(data_dir)) == 6


def test_an_interrupted_decode_leaves_nothing(data_dir, monkeypatch):
  whole = opened(data_dir, size=(12, 6))
  before = decoded_files(data_dir)
  real, calls = source.decode_image, iter(range(1000))

  def interrupted(data, size):
    if next(calls) == 100:
      raise KeyboardInterrupt
    return real(data, size)

  monkeypatch.setattr(source, 'decode_image', interrupted)
  with pytest.raises(KeyboardInterrupt):
    opened(data_dir)
  assert decoded_files(data_dir) == before
  monkeypatch.undo()
  assert opened(data_dir).images.shape == (240, *SIZE, 3)
  assert whole.images.shape == (240, 12, 6, 3)


def test_what_a_killed_decode_left_is_not_taken_for_a_table(data_dir):
  good = opened(data_dir).images.copy()
  folder = folder_of(data_dir) / 'decoded'
  # As after a kill: labels written, the pixels only in part.
  pixels = folder / 'test_24x12.pixels.npy'
  pixels.rename(folder / 'test_24x12.12345.part')
  np.testing.assert_array_equal(opened(data_dir).images, good)


@pytest.mark.parametrize('name', ['pixels', 'records'])
def test_a_damaged_table_is_decoded_again(data_dir, name):
  good = opened(data_dir)
  good = good._replace(images=good.images.copy())
  path = folder_of(data_dir) / 'decoded' / f'test_24x12.{name}.npy'
  os.truncate(path, path.stat().st_size // 2)
  again = opened(data_dir)
  np.testing.assert_array_equal(again.images, good.images)
  for old, new in zip(good.records, again.records, strict=True):
    np.testing.assert_array_equal(old, new)


def test_every_broken_image_is_named(data_dir, monkeypatch):
  png = io.BytesIO()
  Image.fromarray(np.zeros((24, 12, 3), np.uint8)).save(png, 'PNG')
  good = png.getvalue()
  fields = ('identity', 'camera', 'location', 'modality', 'frame', 'indoor')
  rows = [
    {
      'image': good,
      **dict(zip(fields, (7, 1 + i % 6, 1, 0, i, 1), strict=True)),
    }
    for i in range(30)
  ]
  rows[3]['image'] = good[: len(good) // 2]  # cut off
  rows[21]['image'] = b'no image at all'
  monkeypatch.setattr(source, '_data_source', lambda *_: rows)
  with pytest.raises(ValueError) as error:
    opened(data_dir)
  first, *named = str(error.value).splitlines()
  assert first.startswith(f'2 images of {folder_of(data_dir)} cannot be')
  assert 'prepare it again' in first
  assert [line.split(': ')[0] for line in named] == [
    'row 3 (identity 7, camera 4, frame 3)',
    'row 21 (identity 7, camera 4, frame 21)',
  ]
  assert not decoded_files(data_dir)


@pytest.mark.parametrize('keep', [0.0, 0.5, 0.99])
def test_a_truncated_file_is_a_sentence(data_dir, keep):
  folder = folder_of(data_dir)
  (path,) = folder.glob('*test*array_record*')
  os.truncate(path, int(keep * path.stat().st_size))
  with pytest.raises(ValueError, match='cannot be read') as error:
    opened(data_dir)
  assert str(folder) in str(error.value)
  assert 'delete that folder and prepare it again' in str(error.value)
  assert not decoded_files(data_dir)


def test_damage_inside_a_file_names_its_rows(data_dir):
  (path,) = folder_of(data_dir).glob('*test*array_record*')
  content = bytearray(path.read_bytes())
  content[300_000:301_000] = bytes(1000)
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r'^\d+ images of .*\nrow \d+: '):
    opened(data_dir)


def test_a_missing_file_is_a_sentence(data_dir):
  (path,) = folder_of(data_dir).glob('*test*array_record*')
  path.unlink()
  with pytest.raises(ValueError, match='cannot be read'):
    opened(data_dir)


def test_a_damaged_fingerprint_is_a_sentence(data_dir):
  opened(data_dir)
  (folder_of(data_dir) / 'fingerprint.json').write_text('')
  with pytest.raises(ValueError, match='cannot be read'):
    opened(data_dir)


@pytest.mark.parametrize(
  ('name', 'config', 'message'),
  [
    ('market', 'tiny', "no dataset 'market': choose one of synthetic_reid"),
    ('sysu_mm01', '', "'sysu_mm01' is not prepared: there is no"),
    ('synthetic_reid', 'huge', "no config 'huge': choose one of small"),
  ],
)
def test_unknown_data_is_a_sentence(name, config, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    open_table(name, config, 'train', SIZE, str(tmp_path))


def test_an_unknown_split_is_a_sentence(data_dir):
  with pytest.raises(
    ValueError, match=r"splits \['test', 'train'\], not 'val'"
  ):
    opened(data_dir, 'val')


def test_labels_are_named_in_the_order_of_the_file():
  assert Records._fields == (
    'identity',
    'camera',
    'location',
    'modality',
    'frame',
    'indoor',
  )


def test_what_killed_decoding_left_is_removed(data_dir):
  decoded = folder_of(data_dir) / 'decoded'
  decoded.mkdir()
  height, width = SIZE
  old, new = (decoded / f'test_{height}x{width}.{n}.part' for n in (1, 2))
  for part in (old, new):
    part.write_bytes(b'half')
  os.utime(old, (0, 0))
  opened(data_dir)
  assert not old.exists()
  assert new.exists()  # another process may be at it
