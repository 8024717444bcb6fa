"""Ranked lists of pictures as one HTML page that opens without a server.

Synopsis:

  page = make_page([Answer(path, 'infrared', True, found)], 'index of people')
  pathlib.Path('page.html').write_text(page)
"""

import base64
import html
import io
import os
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageOps

from jaxreid.data.source import to_rgb
from jaxreid.search_index import Found

_HEIGHT, _WIDEST = 180, 720  # pixels of a picture on the page

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.4 system-ui, sans-serif; margin: 1.5rem;
       background: Canvas; color: CanvasText; }
h2 { font-size: 1rem; overflow-wrap: anywhere; margin: 2rem 0 .5rem; }
ol { display: grid; gap: .75rem; padding: 0; margin: 0; list-style: none;
     grid-template-columns: repeat(auto-fill, minmax(6.2rem, 1fr)); }
figure { margin: 0; }
img, .gone { height: 180px; width: 100%; object-fit: contain;
     background: color-mix(in srgb, CanvasText 8%, Canvas); display: block; }
.gone { display: flex; align-items: center; justify-content: center; }
.query img { outline: 3px solid #3a7bd5; }
figcaption { font-size: .7rem; overflow-wrap: anywhere; margin-top: .25rem; }
b { font-variant-numeric: tabular-nums; }
"""


class Answer(NamedTuple):
  """What was found for one query.

  Attributes:
    path: of the query.
    modality: 'visible' or 'infrared'.
    guessed: whether the modality was guessed.
    found: the list, the nearest first.
  """

  path: str
  modality: str
  guessed: bool
  found: list[Found]


def make_page(answers: Sequence[Answer], title: str) -> str:
  """The page; pictures are part of it, made small."""
  sections = ''.join(_section(answer) for answer in answers)
  return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
<p>The query is outlined in blue; its nearest pictures follow with their
distances. A short distance is a likeness, not a proof of identity.</p>
{sections}
</body>
</html>
"""


def _section(answer: Answer) -> str:
  guessed = ' (guessed)' if answer.guessed else ''
  query = _figure(answer.path, 'query', f'{answer.modality}{guessed}')
  places = ''.join(
    f'<li>{_figure(found.entry.path, "", _caption(i, found))}</li>'
    for i, found in enumerate(answer.found, 1)
  )
  name = html.escape(answer.path)
  return f'<h2>{name}</h2>\n<ol><li>{query}</li>{places}</ol>\n'


def _caption(place: int, found: Found) -> str:
  name = html.escape(os.path.basename(found.entry.path))
  # Long names break at these rather than anywhere.
  name = name.replace('_', '_<wbr>').replace('.', '<wbr>.')
  return (
    f'<b>{place}. {found.distance:.4f}</b><br>{found.entry.modality}<br>{name}'
  )


def _figure(path: str, kind: str, caption: str) -> str:
  """A picture over a caption, which is HTML."""
  name = html.escape(path, quote=True)
  data = _small(path)
  picture = (
    f'<img src="{data}" alt="{name}" title="{name}">'
    if data
    else f'<div class="gone" title="{name}">not readable</div>'
  )
  return (
    f'<figure class="{kind}">{picture}<figcaption>{caption}</figcaption>'
    '</figure>'
  )


def _small(path: str) -> str:
  """The picture as a data URI; '' if it cannot be read any more."""
  try:
    with Image.open(path) as image:
      small = to_rgb(ImageOps.exif_transpose(image))
  except Exception:  # decoders of damaged bytes have many kinds
    return ''
  small.thumbnail((_WIDEST, _HEIGHT), Image.Resampling.LANCZOS)
  stream = io.BytesIO()
  small.save(stream, 'JPEG', quality=85)
  return (
    'data:image/jpeg;base64,' + base64.b64encode(stream.getvalue()).decode()
  )
