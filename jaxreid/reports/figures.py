"""Figures of a report as SVG that stands in the page: no files, no scripts.

Synopsis:

  lines({'loss': [(1, 2.5), (20, 1.3)]}, 'step', height=140)
  scatter(points, kinds, names)
  bars(positive, negative, top)

Colours are classes (`c0` to `c8`), which the page's style defines for light
and dark. Each figure scales with its column, so a wide one is drawn wide, lest
its letters outgrow those of the others.
"""

import html
import math
from collections.abc import Mapping, Sequence

NARROW, WIDE = 280, 400  # units of a figure's width, about its pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 10, 10, 30


def lines(
  series: Mapping[str, Sequence[tuple[float, float]]],
  label: str,
  height: int = 170,
  low: float | None = None,
  high: float | None = None,
  width: int = NARROW,
) -> str:
  """Curves over one axis; points that are not finite are left out.

  Args:
    series: name -> (x, y) pairs, in the order of x.
    label: of the x axis.
    height: of the figure, in the units of `width`.
    low: of the y axis; the smallest value if None.
    high: of the y axis; the largest value if None.
    width: of the figure, `NARROW` or `WIDE`.
  """
  kept = {
    name: [(x, y) for x, y in points if math.isfinite(y)]
    for name, points in series.items()
  }
  xs = [x for points in kept.values() for x, _ in points]
  ys = [y for points in kept.values() for _, y in points]
  if not ys:
    return '<p class="none">No finite values.</p>'
  axes = _Axes(
    (min(xs), max(xs)),
    (min(ys) if low is None else low, max(ys) if high is None else high),
    (width, height),
  )
  body = axes.frame(label)
  for i, (name, points) in enumerate(kept.items()):
    place = ' '.join(f'{axes.x(x):.1f},{axes.y(y):.1f}' for x, y in points)
    title = html.escape(name)
    body += f'<polyline class="line c{i % 8}" points="{place}">'
    body += f'<title>{title}</title></polyline>'
    if len(points) == 1:
      (x, y) = points[0]
      body += (
        f'<circle class="dot c{i % 8}" cx="{axes.x(x):.1f}" '
        f'cy="{axes.y(y):.1f}" r="3"/>'
      )
  return _svg(body, (width, height), ', '.join(kept) + f' by {label}')


def bars(
  positive: Sequence[float],
  negative: Sequence[float],
  top: float,
  height: int = 170,
) -> str:
  """Two histograms on one axis, from 0 to `top`, each of sum 1."""
  high = max(*positive, *negative, 1e-9)
  axes = _Axes((0.0, top), (0.0, high), (NARROW, height))
  body = axes.frame('distance')
  for name, shares, color in (
    ('different people', negative, 1),
    ('the same person', positive, 0),
  ):
    step = top / len(shares)
    place = [f'{axes.x(0.0):.1f},{axes.y(0.0):.1f}']
    for i, share in enumerate(shares):
      for x in (i * step, (i + 1) * step):
        place.append(f'{axes.x(x):.1f},{axes.y(share):.1f}')
    place.append(f'{axes.x(top):.1f},{axes.y(0.0):.1f}')
    body += f'<polygon class="area c{color}" points="{" ".join(place)}">'
    body += f'<title>{name}</title></polygon>'
  return _svg(body, (NARROW, height), 'histogram of distances')


def scatter(
  points: Sequence[tuple[float, float, int, int]],
  titles: Sequence[str],
  height: int = 340,
) -> str:
  """Points (x, y, shape, colour): circles, crosses and squares by shape.

  Both axes have one unit, so that what looks near, is near.

  Args:
    points: colour 8 is the gray of those that are not told apart.
    titles: of each point, shown where the pointer rests.
    height: of the figure.
  """
  xs, ys = [p[0] for p in points], [p[1] for p in points]
  unit = max(
    (max(xs) - min(xs)) / (WIDE - _LEFT - _RIGHT),
    (max(ys) - min(ys)) / (height - _TOP - _BOTTOM),
  )
  axes = _Axes(
    _around(xs, unit * (WIDE - _LEFT - _RIGHT)),
    _around(ys, unit * (height - _TOP - _BOTTOM)),
    (WIDE, height),
  )
  body = axes.box('first component', 'second component')
  # Gray ones first, lest they hide the others.
  order = sorted(range(len(points)), key=lambda i: points[i][3] != 8)
  for i in order:
    x, y, shape, color = points[i]
    body += _mark(axes.x(x), axes.y(y), shape, color, html.escape(titles[i]))
  return _svg(body, (WIDE, height), 'map of features')


def _around(values: Sequence[float], length: float) -> tuple[float, float]:
  """Limits with the values in their middle, and a little room."""
  middle = (min(values) + max(values)) / 2
  return middle - 0.52 * length, middle + 0.52 * length


def mark(shape: int, color: int) -> str:
  """A mark of `scatter` for a legend."""
  return (
    '<svg class="mark" viewBox="0 0 12 12" aria-hidden="true">'
    f'{_mark(6.0, 6.0, shape, color, "")}</svg>'
  )


def _mark(x: float, y: float, shape: int, color: int, title: str) -> str:
  told = f'<title>{title}</title>' if title else ''
  kind = f'class="dot c{color}"'
  if shape == 0:
    return f'<circle {kind} cx="{x:.1f}" cy="{y:.1f}" r="2.6">{told}</circle>'
  if shape == 1:
    place = f'M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6'
    return f'<path class="cross c{color}" d="{place}">{told}</path>'
  return (
    f'<rect {kind} x="{x - 2.4:.1f}" y="{y - 2.4:.1f}" width="4.8" '
    f'height="4.8">{told}</rect>'
  )


class _Axes:
  """Places of values in a figure."""

  def __init__(
    self,
    x: tuple[float, float],
    y: tuple[float, float],
    size: tuple[int, int],
  ):
    self._x, self._y = _widened(x), _widened(y)
    self._width, self._height = size

  def x(self, value: float) -> float:
    low, high = self._x
    room = self._width - _LEFT - _RIGHT
    return _LEFT + (value - low) / (high - low) * room

  def y(self, value: float) -> float:
    low, high = self._y
    room = self._height - _TOP - _BOTTOM
    return self._height - _BOTTOM - (value - low) / (high - low) * room

  def frame(self, label: str) -> str:
    """Grid lines, the numbers of both axes and the name of x."""
    bottom = self._height - _BOTTOM
    parts = []
    for value in _ticks(*self._y):
      y = self.y(value)
      parts.append(
        f'<path class="rule" d="M{_LEFT} {y:.1f}H{self._width - _RIGHT}"/>'
        f'<text x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">'
        f'{_number(value)}</text>'
      )
    for value in _ticks(*self._x):
      number = _number(value)
      # A digit is about six wide: none may stand outside.
      x = min(self.x(value), self._width - 3.0 * len(number))
      parts.append(
        f'<text x="{x:.1f}" y="{bottom + 13}" text-anchor="middle">{number}'
        '</text>'
      )
    parts.append(self._name_x(label, bottom + 26))
    return ''.join(parts)

  def box(self, x_label: str, y_label: str) -> str:
    """A frame without numbers, and the names of both axes."""
    bottom = self._height - _BOTTOM
    middle = (_TOP + bottom) / 2
    return (
      f'<path class="rule" d="M{_LEFT} {_TOP}H{self._width - _RIGHT}V{bottom}'
      f'H{_LEFT}Z"/>{self._name_x(x_label, bottom + 17)}'
      f'<text x="{_LEFT - 9}" y="{middle}" text-anchor="middle" '
      f'transform="rotate(-90 {_LEFT - 9} {middle})">{html.escape(y_label)}'
      '</text>'
    )

  def _name_x(self, label: str, y: int) -> str:
    return (
      f'<text x="{(_LEFT + self._width - _RIGHT) / 2}" y="{y}" '
      f'text-anchor="middle">{html.escape(label)}</text>'
    )


def _svg(body: str, size: tuple[int, int], told: str) -> str:
  return (
    f'<svg class="figure" viewBox="0 0 {size[0]} {size[1]}" role="img" '
    f'aria-label="{html.escape(told, quote=True)}">{body}</svg>'
  )


def _widened(limits: tuple[float, float]) -> tuple[float, float]:
  low, high = limits
  if high > low:
    return low, high
  return low - 0.5, low + 0.5


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
  """Round values between the limits: steps of 1, 2 or 5 times ten."""
  rough = (high - low) / count
  power = 10.0 ** math.floor(math.log10(rough))
  step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
  first = math.ceil(low / step - 1e-9)
  last = math.floor(high / step + 1e-9)
  return [i * step for i in range(first, last + 1)]


def _number(value: float) -> str:
  if value and not 1e-3 <= abs(value) < 1e5:
    return f'{value:.0e}'.replace('e-0', 'e-').replace('e+0', 'e')
  return f'{value:.4f}'.rstrip('0').rstrip('.') or '0'
