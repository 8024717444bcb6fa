import io
import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tfds_builders.synthetic_reid import cameras, identity, scenes, textures
from tfds_builders.synthetic_reid.canvas import Part
from tfds_builders.synthetic_reid.contact_sheet import contact_sheet
from tfds_builders.synthetic_reid.difficulty import DIFFICULTY
from tfds_builders.synthetic_reid.figure import draw_figure
from tfds_builders.synthetic_reid.identity import draw_identity, luminance
from tfds_builders.synthetic_reid.pose import View, walk
from tfds_builders.synthetic_reid.render import render
from tfds_builders.synthetic_reid.workers import Task, render_all

TASKS = [
  Task(0, number, camera, frame)
  for number in (3, 501)
  for camera in range(1, 7)
  for frame in range(2)
]


def pixels(jpeg: bytes) -> np.ndarray:
  return np.asarray(Image.open(io.BytesIO(jpeg)))


def test_bytes_do_not_depend_on_processes_or_order():
  alone = {task: render(*task) for task in reversed(TASKS)}
  for workers in (0, 1, 3):
    assert list(render_all(TASKS, workers)) == list(alone.items())[::-1]


def test_every_number_changes_the_image():
  base = (0, 3, 1, 0)
  changed = [(1, 3, 1, 0), (0, 4, 1, 0), (0, 3, 2, 0), (0, 3, 1, 1)]
  assert len({render(*base), *(render(*task) for task in changed)}) == 5


def test_size_and_channels():
  for camera in cameras.CAMERAS.values():
    image = pixels(render(0, 7, camera.number, 5))
    assert image.shape == (288, 144, 3)
    equal = np.array_equal(image, np.repeat(image[..., :1], 3, axis=2))
    assert equal == (camera.modality == 'infrared')


def test_cameras_are_laid_out_as_in_sysu_mm01():
  layout = [(c.number, c.location) for c in cameras.CAMERAS.values()]
  assert layout == [(1, 1), (2, 2), (3, 2), (4, 4), (5, 5), (6, 6)]
  infrared = [
    c.number for c in cameras.CAMERAS.values() if c.modality == 'infrared'
  ]
  assert infrared == [3, 6]


def test_cameras_2_and_3_share_one_scene_and_no_others_do():
  def outlines(number):
    scene = scenes.scene_picture(cameras.CAMERAS[number]).convert('L')
    dy, dx = np.gradient(np.asarray(scene, np.float64))
    edges = np.hypot(dx, dy)
    return (edges > np.quantile(edges, 0.9)).ravel()

  marks = {number: outlines(number) for number in range(1, 7)}
  agreement = {
    (a, b): np.corrcoef(marks[a], marks[b])[0, 1]
    for a in marks
    for b in marks
    if a < b
  }
  shared = agreement.pop((2, 3))
  assert shared > 0.6
  assert max(agreement.values()) < 0.4


def garments(count: int = 1500):
  for number in range(count):
    person = draw_identity(0, number)
    yield from (person.upper, person.lower, person.coat)


def test_infrared_brightness_is_independent_of_colour():
  rows = [(*g.visible[0], g.infrared[0]) for g in garments()]
  correlation = np.corrcoef(np.array(rows), rowvar=False)
  assert np.abs(correlation[3, :3]).max() < 0.05
  # The same measure on a dependent pair, to know that it can fail.
  assert correlation[0, 1] > 0.1


def test_pattern_contrast_is_attenuated_by_a_random_factor():
  shares = []
  for garment in garments(400):
    visible = luminance(garment.visible[1]) - luminance(garment.visible[0])
    infrared = garment.infrared[1] - garment.infrared[0]
    if abs(visible) > 0.05:
      shares.append(abs(infrared / visible))
  low, high = DIFFICULTY.pattern_attenuation
  assert max(shares) <= high + 1e-6
  assert np.quantile(shares, 0.9) - np.quantile(shares, 0.1) > (high - low) / 2
  assert np.quantile(shares, 0.9) < 1


def test_people_differ_in_everything_that_the_task_needs():
  people = [draw_identity(0, number) for number in range(1, 101)]
  assert {p.hair_kind for p in people} == set(identity.HAIR_KINDS)
  assert {p.upper.kind for p in people} == set(identity.UPPER_KINDS)
  assert {p.lower.kind for p in people} == set(identity.LOWER_KINDS)
  assert {p.coat.kind for p in people} == set(identity.COAT_KINDS)
  assert {p.bag_kind for p in people} == set(identity.BAG_KINDS)
  assert {p.hat_kind for p in people} == set(identity.HAT_KINDS)
  patterns = {p.upper.pattern for p in people}
  assert patterns == {'plain', *identity.PATTERNS}
  bodies = np.array([list(vars(p.body).values()) for p in people])
  assert np.all(np.ptp(bodies, axis=0) > 0)


@pytest.mark.parametrize('turn', range(8))
def test_a_person_is_seen_whole_from_every_side(turn):
  for number in range(1, 13):
    person = draw_identity(0, number)
    pose = walk(person.body, 0.4 * number, 1.0)
    view = View(turn * math.pi / 4, 0.1, 250.0, 72.0, 270.0)
    labels = np.asarray(draw_figure(person, pose, view).labels)
    seen = set(np.unique(labels))
    assert {Part.SHOES, Part.LOWER} <= seen
    assert Part.COAT in seen or Part.UPPER in seen
    rows = np.flatnonzero(
      ((labels != Part.BACKGROUND) & (labels != Part.SHADOW)).any(axis=1)
    )
    # 250 pixels tall, less for a stoop and a wide stride.
    assert 215 < np.ptp(rows) < 285


def test_prints_turn_away_with_the_back():
  tiles = [
    textures.pattern_tile(garment)
    for garment in garments(60)
    if garment.pattern == 'print'
  ]
  half = textures.PERIOD // 2
  assert any(
    not np.array_equal(tile[:, :half], tile[:, half : 2 * half])
    for tile in tiles
  )
  for tile in tiles:
    assert tile.shape == (textures.TILE_HEIGHT, textures.TILE_WIDTH)
    assert tile.max() <= 3


def test_workers_import_neither_jax_nor_tfds():
  code = (
    'import sys, tfds_builders.synthetic_reid.workers\n'
    "heavy = {'jax', 'tensorflow_datasets', 'tensorflow'} & set(sys.modules)\n"
    'sys.exit(str(heavy) if heavy else 0)'
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def test_a_failing_worker_is_reported(capfd):
  with pytest.raises(ChildProcessError, match='ended early with status 1'):
    list(render_all([Task(0, 1, 9, 0)], workers=1))
  assert 'KeyError: 9' in capfd.readouterr().err


def test_contact_sheet_has_a_cell_per_identity_and_camera():
  sheet = np.asarray(contact_sheet(rows=1), np.float64)
  assert sheet.shape[1] % 6 == 0
  cells = np.split(sheet[40:], 6, axis=1)
  assert all(cell.std() > 10 for cell in cells)
