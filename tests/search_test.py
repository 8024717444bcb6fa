"""Pictures in, ranked paths out; what is known is not embedded again."""

import base64
import io
import json
import os
import pathlib
import re
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from jaxreid import indexing, search, search_page, sharding
from jaxreid.embedder import Embedder
from jaxreid.image_files import (
  colourfulness,
  find_images,
  guess_modality,
  read_images,
)
from jaxreid.search_index import Index


class Colors(Embedder):
  """A network of no parameters: a picture's mean colour, twice if visible."""

  image_size = (8, 4)
  modalities = ('visible', 'infrared')
  test_distance = 'sum'

  def __init__(self, workdir='there', identity='a' * 64):
    self.workdir = pathlib.Path(workdir).absolute()
    self.identity = identity
    self.seen = 0

  def __call__(self, images, modality='infrared'):
    pixels = np.stack(images).astype(np.float32)
    self.seen += len(pixels)
    mean = pixels.mean((1, 2))[:, None] / 255
    if modality == 'visible':
      mean = np.concatenate([mean, mean[:, :, ::-1] ** 2], axis=1)
    return mean


def write(path, rng, gray=False):
  pixels = rng.integers(0, 256, 3)
  pixels = np.full((16, 8, 3), pixels[:1] if gray else pixels, np.uint8)
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path)
  return str(path)


@pytest.fixture
def gallery(tmp_path):
  rng = np.random.default_rng(0)
  for i in range(12):
    write(tmp_path / 'gallery' / f'{i % 3}' / f'{i}.png', rng, i % 4 == 0)
  return tmp_path / 'gallery'


@pytest.fixture(autouse=True)
def colors(monkeypatch, tmp_path):
  made = []
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'there').mkdir()

  def make(workdir):
    made.append(Colors(workdir))
    return made[-1]

  monkeypatch.setattr(search, 'Embedder', make)
  return made


def index_of(gallery, out, *more):
  search.main(
    [
      'index',
      '--checkpoint=there',
      f'--gallery={gallery}',
      f'--out={out}',
      *more,
    ]
  )


def query_json(capsys, *arguments):
  capsys.readouterr()
  search.main(['query', *map(str, arguments), '--json'])
  return json.loads(capsys.readouterr().out)


def expected_list(query, paths):
  """Paths by the mean distance over pairs of vectors, by a plain loop."""
  embed = Colors()

  def vectors(path):
    pixels = np.asarray(Image.open(path).resize((4, 8)))
    return embed(pixels[None], guess_modality(pixels))[0]

  found = []
  for path in paths:
    pairs = [
      np.linalg.norm(q - g) for q in vectors(query) for g in vectors(path)
    ]
    found.append((np.mean(pairs), path))
  return sorted(found)


def test_finds_what_a_plain_loop_finds(gallery, tmp_path, capsys):
  index_of(gallery, tmp_path / 'index')
  out = capsys.readouterr().out
  assert '12 images embedded' in out
  assert 'guessed from their colours: 9 visible, 3 infrared' in out
  rng = np.random.default_rng(7)
  queries = [
    write(tmp_path / 'queries' / f'{gray}.png', rng, gray) for gray in (1, 0)
  ]
  answers = query_json(
    capsys, f'--index={tmp_path / "index"}', *queries, '--top=5'
  )['queries']
  assert [a['path'] for a in answers] == queries
  assert [a['modality'] for a in answers] == ['infrared', 'visible']
  for answer, query in zip(answers, queries, strict=True):
    expected = expected_list(query, find_images(gallery))[:5]
    assert [r['path'] for r in answer['results']] == [p for _, p in expected]
    np.testing.assert_allclose(
      [r['distance'] for r in answer['results']],
      [d for d, _ in expected],
      atol=1e-3,
    )


def test_within_a_modality_it_ranks_by_equation_2(gallery, tmp_path, capsys):
  index_of(gallery, tmp_path / 'index')
  query = write(tmp_path / 'q.png', np.random.default_rng(3), gray=True)
  (answer,) = query_json(
    capsys, f'--index={tmp_path / "index"}', query, '--among=visible'
  )['queries']
  index = Index.read(tmp_path / 'index')
  visible = [e.path for _, _, e in index.current() if e.modality == 'visible']
  expected = expected_list(query, visible)
  assert [r['path'] for r in answer['results']] == [p for _, p in expected]
  assert len(expected) == 9


def test_adding_embeds_only_what_is_new(gallery, tmp_path, colors, capsys):
  out = tmp_path / 'index'
  index_of(gallery, out)
  index_of(gallery, out)
  assert [c.seen for c in colors] == [12, 0]
  rng = np.random.default_rng(9)
  write(gallery / 'new.png', rng)
  shutil.copy(gallery / '1' / '1.png', gallery / 'copy.png')
  changed = write(gallery / '0' / '0.png', rng)
  os.utime(gallery / '2' / '2.png')  # touched, not changed
  capsys.readouterr()
  index_of(gallery, out)
  assert colors[-1].seen == 2
  said = capsys.readouterr().out
  assert '2 images embedded, 2 known by their bytes, 10 unchanged' in said
  assert '14 images' in said.splitlines()[-1]
  # The changed picture is found as it is now, once.
  (answer,) = query_json(capsys, f'--index={out}', changed, '--top=99')[
    'queries'
  ]
  paths = [r['path'] for r in answer['results']]
  assert paths[0] == changed
  assert len(paths) == len(set(paths)) == 14


def test_a_wrong_guess_is_put_right(gallery, tmp_path, colors, capsys):
  out = tmp_path / 'index'
  index_of(gallery, out)
  index_of(gallery, out, '--modality=infrared')
  index_of(gallery / '..' / 'gallery', out)
  assert [c.seen for c in colors] == [12, 9, 0]
  found = [entry.modality for _, _, entry in Index.read(out).current()]
  assert found == ['infrared'] * 12


def test_pictures_of_many_kinds(tmp_path):
  """All hold the same picture, upright, as far as their format can."""
  rng = np.random.default_rng(5)
  pixels = rng.integers(0, 256, (2, 2, 3), np.uint8).repeat(8, 0).repeat(8, 1)
  image, top = Image.fromarray(pixels), tmp_path / 'zwei Ordner' / 'Öl & Ähre'
  top.mkdir(parents=True)
  image.save(top / 'a.PNG')
  image.convert('CMYK').save(top / 'b.jpg', quality=100)
  image.save(top / 'c.gif', save_all=True, append_images=[image.rotate(90)])
  exif = Image.Exif()
  exif[0x112] = 6  # shown a quarter clockwise
  image.rotate(90).save(top / 'd.jpg', exif=exif, quality=100, subsampling=0)
  image.save(top / 'e.ppm')
  image.save(top / '.hidden.png')
  (top / 'notes.txt').write_text('no picture')
  paths = find_images(tmp_path)
  assert [os.path.basename(p)[0] for p in paths] == ['a', 'b', 'c', 'd', 'e']
  pictures, failures = read_images(paths, (16, 16))
  assert not failures
  for picture in pictures:
    off = np.abs(picture.pixels.astype(int) - pixels)
    assert off.max() <= 6, picture.path


def test_unreadable_images_are_listed(gallery, tmp_path, capsys):
  (gallery / 'broken.jpg').write_bytes(b'no image')
  whole = (gallery / '1' / '1.png').read_bytes()
  (gallery / 'torn.png').write_bytes(whole[: len(whole) // 2])
  index_of(gallery, tmp_path / 'index')
  out = capsys.readouterr().out
  assert '2 could not be read and are left out' in out
  assert f'{gallery}/broken.jpg: no image that Pillow can read' in out
  assert 'holds 12 images' in out


def test_a_kill_before_the_first_part_costs_nothing(
  gallery, tmp_path, monkeypatch, capsys
):
  out = tmp_path / 'index'

  def stop(file, _):
    file.write_bytes(b'half')
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(np, 'save', stop)
    with pytest.raises(SystemExit):
      index_of(gallery, out)
  with pytest.raises(SystemExit):
    search.main(['query', f'--index={out}', 'a.png'])
  assert 'holds no images yet' in capsys.readouterr().err
  index_of(gallery, out)
  assert 'holds 12 images' in capsys.readouterr().out


def test_a_part_that_was_cut_off_is_a_sentence(gallery, tmp_path, capsys):
  out = tmp_path / 'index'
  index_of(gallery, out)
  for whole in out.glob('*.npy'):
    for size in (0, 50, whole.stat().st_size - 1):
      whole.write_bytes(whole.read_bytes()[:size])
      capsys.readouterr()
      with pytest.raises(SystemExit):
        search.main(['query', f'--index={out}', 'a.png'])
      assert 'is damaged' in capsys.readouterr().err


def test_two_commands_do_not_mix_their_parts(gallery, tmp_path):
  embedder = Colors()
  one = Index.open(tmp_path / 'index', embedder)
  other = Index.open(tmp_path / 'index', embedder)
  paths = find_images(gallery)
  indexing.add_images(one, paths[:6], embedder)
  with pytest.raises(ValueError, match='another command adds to'):
    indexing.add_images(other, paths[6:], embedder)
  assert len(Index.read(tmp_path / 'index')) == 6


def test_parts_are_bounded_and_vectors_leave_the_memory(
  gallery, tmp_path, monkeypatch
):
  monkeypatch.setattr(indexing, '_PART', 4)
  monkeypatch.setattr(indexing, '_BATCH', 3)
  index, embedder = Index.open(tmp_path / 'index', Colors()), Colors()
  work = indexing._Work(index, embedder)
  paths = find_images(gallery)
  for start in range(0, 12, 3):
    pictures, _ = read_images(paths[start : start + 3], (8, 4))
    work.take(pictures, None)
  work.write()
  assert max(len(part.entries) for part in index.parts) <= 4
  assert sum(len(part.entries) for part in index.parts) == 12
  for vectors, _ in work._known.values():
    assert isinstance(vectors, np.memmap)


def test_a_moved_checkpoint_is_asked_for_and_then_known(
  gallery, tmp_path, colors, capsys
):
  out, query = tmp_path / 'index', str(gallery / '1' / '1.png')
  index_of(gallery, out)
  (tmp_path / 'there').rename(tmp_path / 'elsewhere')
  with pytest.raises(SystemExit):
    search.main(['query', f'--index={out}', query])
  assert '--checkpoint=WORKDIR' in capsys.readouterr().err
  where = f'--checkpoint={tmp_path / "elsewhere"}'
  search.main(['query', f'--index={out}', query, where])
  search.main(
    ['index', where, f'--gallery={gallery}', f'--out={tmp_path / "index"}']
  )
  search.main(['query', f'--index={out}', query])
  assert colors[-1].workdir == tmp_path / 'elsewhere'


def test_names_that_are_no_text(gallery, tmp_path, monkeypatch, capsys):
  name = os.fsdecode(b'J\xfcrgen im Fl\xc3\xbcr.png')  # Latin-1, then UTF-8
  shutil.copy(gallery / '1' / '1.png', gallery / name)
  index_of(gallery, tmp_path / 'index')
  file = io.BytesIO()
  monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(file, 'ascii'))
  page = tmp_path / 'page.html'
  search.main(
    [
      'query',
      f'--index={tmp_path / "index"}',
      str(gallery / name),
      f'--html={page}',
    ]
  )
  sys.stdout.flush()
  assert b'J\\udcfcrgen im Fl\\xfcr.png' in file.getvalue()
  assert 'im Flür.png' in page.read_text('utf-8')


def test_json_alone_on_the_standard_output(gallery, tmp_path, capsys):
  index_of(gallery, tmp_path / 'index', '--modality=visible')
  capsys.readouterr()
  arguments = ['query', f'--index={tmp_path / "index"}', '--json']
  with pytest.raises(SystemExit):
    search.main([*arguments, 'nowhere.png'])
  assert capsys.readouterr().out == ''
  image = str(gallery / '1' / '1.png')
  search.main([*arguments, image, 'nowhere.png', '--among=infrared'])
  found = json.loads(capsys.readouterr().out)
  assert found['queries'][0]['results'] == []
  (unreadable,) = found['unreadable']
  assert unreadable['path'].endswith('nowhere.png')
  assert unreadable['reason'] == 'No such file or directory'


def test_far_more_places_than_pictures(gallery, tmp_path, capsys):
  index_of(gallery, tmp_path / 'index')
  image = str(gallery / '1' / '1.png')
  (answer,) = query_json(
    capsys, f'--index={tmp_path / "index"}', image, '--top=1000000000000'
  )['queries']
  assert len(answer['results']) == 12


def test_another_checkpoint_is_refused(gallery, tmp_path, monkeypatch, capsys):
  out = tmp_path / 'index'
  index_of(gallery, out)
  monkeypatch.setattr(search, 'Embedder', lambda w: Colors(w, 'b' * 64))
  image = str(gallery / '1' / '1.png')
  for act in (
    lambda: index_of(gallery, out),
    lambda: search.main(['query', f'--index={out}', image]),
  ):
    capsys.readouterr()
    with pytest.raises(SystemExit):
      act()
    assert 'vectors of different networks do not compare' in (
      capsys.readouterr().err
    )


def test_the_page_stands_alone(gallery, tmp_path, capsys):
  index_of(gallery, tmp_path / 'index', '--modality=visible')
  assert 'guessed' not in capsys.readouterr().out
  (gallery / '1' / '1.png').unlink()
  query = write(tmp_path / '<q>.png', np.random.default_rng(1))
  page = tmp_path / 'page.html'
  search.main(
    [
      'query',
      f'--index={tmp_path / "index"}',
      query,
      f'--html={page}',
      '--top=99',
    ]
  )
  out = capsys.readouterr().out
  assert f'{query} (visible, guessed from its colours)' in out
  text = page.read_text()
  assert text.count('data:image/jpeg;base64,') == 12
  assert text.count('not readable') == 1
  assert '<q>' not in text
  assert 'http' not in text


def test_a_page_of_odd_pictures(tmp_path):
  paths = []
  for name, image in (
    ('wide.png', Image.new('RGB', (30000, 1), 'red')),
    ('deep.png', Image.fromarray(np.full((9, 5), 30000, np.uint16))),
  ):
    paths.append(str(tmp_path / name))
    image.save(paths[-1])
  answers = [search_page.Answer(path, 'visible', True, []) for path in paths]
  page = search_page.make_page(answers, 'odd')
  small = [
    Image.open(io.BytesIO(base64.b64decode(data)))
    for data in re.findall('base64,([^"]+)', page)
  ]
  assert [image.size for image in small] == [(720, 1), (5, 9)]
  assert abs(np.asarray(small[1]).astype(int) - 30000 // 256).max() <= 2


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (['index', '--gallery=nowhere', '--checkpoint=a', '--out=b'], 'no folder'),
    (['query', '--index=nowhere', 'a.png'], 'holds no index'),
  ],
)
def test_mistakes_are_sentences(arguments, said, capsys):
  with pytest.raises(SystemExit) as stop:
    search.main(arguments)
  assert stop.value.code == 1
  assert said in capsys.readouterr().err


def test_a_folder_in_other_use_is_left_alone(gallery, tmp_path, capsys):
  with pytest.raises(SystemExit):
    index_of(gallery, gallery)
  assert 'holds other files' in capsys.readouterr().err


def test_colourfulness():
  rng = np.random.default_rng(0)
  gray = rng.integers(0, 256, (9, 5, 1)).repeat(3, axis=2)
  noisy = np.clip(gray + rng.integers(-2, 3, (9, 5, 3)), 0, 255)
  colored = rng.integers(0, 256, (9, 5, 3))
  assert colourfulness(gray.astype(np.uint8)) == 0
  assert guess_modality(noisy.astype(np.uint8)) == 'infrared'
  assert guess_modality(colored.astype(np.uint8)) == 'visible'
  red = np.zeros((4, 4, 3), np.uint8)
  red[..., 0] = 200
  # No spread; means 200 and 100.
  assert colourfulness(red) == pytest.approx(0.3 * np.hypot(200, 100))


def test_a_search_needs_the_devices_only_for_what_is_there(gallery, tmp_path):
  embedder = Colors()
  index = Index.open(tmp_path / 'index', embedder)
  assert len(index) == 0
  vectors = embedder(np.zeros((2, 8, 4, 3), np.uint8))
  assert index.search(vectors, sharding.make_mesh()) == [[], []]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
  closed = tmp_path / 'closed'
  closed.mkdir()
  Image.new('RGB', (4, 8)).save(tmp_path / 'a.png')
  scan = os.scandir

  def scandir(path):  # as root has no closed folders
    if os.fspath(path) == str(closed):
      raise PermissionError(13, 'Permission denied', str(closed))
    return scan(path)

  monkeypatch.setattr(os, 'scandir', scandir)
  with pytest.raises(ValueError, match='closed cannot be read'):
    find_images(tmp_path)
