"""The markup of a report: its style, and the pieces that sections are made of.

Synopsis:

  table(['search', 'rank-1'], [['all', '24.2']])
  figure(drawn, 'a caption, which is HTML')

Light and dark, from a phone's width to a desk's.
"""

import html
from collections.abc import Sequence

RERUN = 'python -m jaxreid.main --mode=evaluate adds it'


def text(value: object) -> str:
  """Anything, so that it stands in HTML as it is."""
  return html.escape(str(value), quote=True)


def name(search: str) -> str:
  """The name of a search, which breaks between its parts alone."""
  return ', '.join(f'<span>{text(part)}</span>' for part in search.split(', '))


def missing(what: str) -> str:
  """The sentence in place of something that is not there."""
  return f'<p class="none">{text(what)}</p>'


def figure(content: str, caption: str) -> str:
  """A figure over its caption; both are HTML."""
  return f'<figure>{content}<figcaption>{caption}</figcaption></figure>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A table that scrolls sideways where it does not fit."""
  top = ''.join(f'<th scope="col">{text(cell)}</th>' for cell in head)
  body = ''.join(
    f'<tr><th scope="row">{name(row[0])}</th>'
    + ''.join(f'<td>{text(cell)}</td>' for cell in row[1:])
    + '</tr>'
    for row in rows
  )
  return (
    '<div class="scroll" tabindex="0"><table><thead><tr>'
    f'{top}</tr></thead><tbody>{body}</tbody></table></div>'
  )


STYLE = """
:root { color-scheme: light dark; --ground: #fcfcfa; --ink: #1c1c1a;
  --soft: #5f5e59; --line: #dfddd6; --panel: #f3f2ed; --right: #14803c;
  --wrong: #c62f2f; --c0: #2767b8; --c1: #c8571b; --c2: #2b7f55;
  --c3: #7a55bd; --c4: #b83a72; --c5: #1b7f8c; --c6: #8a6a12; --c7: #4d5a66;
  --c8: #c9c7bf; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #171716; --ink: #eceae4; --soft: #a6a49c; --line: #383733;
    --panel: #22221f; --right: #4cc27a; --wrong: #f07070; --c0: #72aaf2;
    --c1: #f1995c; --c2: #62c493; --c3: #b399f0; --c4: #ef86b2; --c5: #5ec3d0;
    --c6: #d8b45a; --c7: #b4c0cc; --c8: #4b4a45; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem clamp(.8rem, 3vw, 2rem)
  4rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.6rem; margin: .5rem 0 0; line-height: 1.2; }
h2 { font-size: 1.2rem; margin: 0 0 .75rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
h4 { font-size: .8rem; font-weight: 400; color: var(--soft);
  margin: .75rem 0 .25rem; }
p { max-width: 44rem; margin: 0 0 .75rem; }
.sub, .none, figcaption, .notes { color: var(--soft); }
.sub { margin: .1rem 0 1rem; overflow-wrap: anywhere; }
section { border-top: 1px solid var(--line); padding: 1.5rem 0;
  scroll-margin-top: 3rem; }
nav { position: sticky; top: 0; z-index: 1; display: flex; gap: 1.1rem;
  overflow-x: auto; padding: .6rem 0; background: var(--ground);
  border-bottom: 1px solid var(--line); white-space: nowrap; }
nav + main section:first-child { border-top: 0; }
a { color: var(--c0); text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; }
.tiles { display: flex; flex-wrap: wrap; gap: .5rem 2rem;
  margin-bottom: 1rem; }
.tiles div { max-width: 18rem; }
.tiles b { display: block; font-size: 1.5rem; line-height: 1.2;
  font-variant-numeric: tabular-nums; }
.tiles span { font-size: .8rem; color: var(--soft); }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .85rem; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line);
  text-align: right; }
thead th { color: var(--soft); font-weight: 500; }
th span, .tiles span span { white-space: nowrap; }
th:first-child { text-align: left; padding-left: 0; font-weight: 500; }
.notes { font-size: .85rem; padding-left: 1.1rem; overflow-wrap: anywhere; }
figure { margin: 0; min-width: 0; }
section > figure + figure { margin-top: 1.5rem; }
figcaption { font-size: .85rem; }
figcaption b { color: var(--ink); }
.grid { display: grid; gap: 1.5rem 1.25rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 16.5rem), 1fr)); }
.two { grid-template-columns:
  repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
.wide { display: flex; flex-wrap: wrap; gap: 1rem 2rem; }
.wide figure { flex: 1 1 20rem; max-width: 30rem; }
.figure { width: 100%; height: auto; display: block; }
.figure text { font-size: 10.5px; fill: var(--soft); }
.figure .rule { stroke: var(--line); stroke-width: 1; fill: none; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.cross { fill: none; stroke-width: 1.6; }
.area { fill-opacity: .32; stroke-width: 1.4; }
.dot { stroke: none; fill-opacity: .8; }
.legend { list-style: none; margin: 0 0 .75rem; padding: 0;
  font-size: .85rem; display: flex; flex-wrap: wrap; gap: .2rem 1rem; }
.wide .legend { flex: 1 1 18rem; flex-direction: column;
  justify-content: center; flex-wrap: nowrap; }
.legend i { display: inline-block; width: .8rem; height: .8rem;
  border-radius: 2px; margin-right: .4rem; vertical-align: -1px; }
.mark { width: .9rem; height: .9rem; vertical-align: -2px;
  margin-right: .3rem; }
.list { list-style: none; display: flex; flex-wrap: wrap; gap: .35rem;
  margin: 0; padding: 0; }
.list li { font-size: .72rem; text-align: center; width: 3.9rem;
  font-variant-numeric: tabular-nums; }
.list img { width: 100%; display: block; border: 3px solid var(--line);
  border-radius: 3px; }
.list .right img { border-color: var(--right); }
.list .wrong img { border-color: var(--wrong); }
.list .query { margin-right: .6rem; }
.list .query img { border-color: var(--ink); }
.picture { display: block; max-height: 48rem; min-width: min(100%, 30rem); }
.scroll .picture { max-width: none; }
pre { font-size: .8rem; background: var(--panel); padding: .8rem;
  border-radius: 4px; }
@media (max-width: 699px) {
  th:first-child { white-space: normal; min-width: 8.5rem; }
  .list li { width: calc((100% - 1.75rem) / 6); }
  .list .query { margin-right: 0; } }
@media (min-width: 700px) {
  .list li { width: 4.6rem; }
  .scroll .picture { max-width: 100%; } }
""" + ''.join(
  f'.line.c{i}, .cross.c{i}, .area.c{i} {{ stroke: var(--c{i}); }}\n'
  f'.dot.c{i}, .area.c{i} {{ fill: var(--c{i}); }}\n'
  f'i.c{i} {{ background: var(--c{i}); }}\n'
  for i in range(9)
)
