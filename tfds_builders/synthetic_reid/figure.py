"""Draws a dressed person on a canvas, from the far side to the near side.

canvas = draw_figure(identity, pose, view)
"""

import math

from tfds_builders.synthetic_reid.canvas import Canvas, Part
from tfds_builders.synthetic_reid.identity import Identity
from tfds_builders.synthetic_reid.pose import Pose, Side, View

SLEEVES = {'tank': 0.12, 't-shirt': 0.45, 'three-quarter': 0.72}
DEPTH = 0.62  # of a trunk, relative to its width


def draw_figure(
  person: Identity, pose: Pose, view: View, lamp: float = 0.0
) -> Canvas:
  """Returns a canvas with the person, lit from a side, and its shadow."""
  canvas = Canvas(lamp)
  cos, sin = math.cos(view.yaw), math.sin(view.yaw)
  near, far = (pose.left, pose.right) if sin < 0 else (pose.right, pose.left)
  _shadow(canvas, view)
  if person.bag_kind == 'backpack' and cos > -0.35:
    _backpack(canvas, person, pose, view)
  if cos >= 0.2:
    _long_hair(canvas, person, pose, view)
  arms_behind = abs(sin) > 0.4
  if arms_behind:
    _arm(canvas, person, far, view, 0.80)
  _leg(canvas, person, far, view, 0.82)
  _leg(canvas, person, near, view, 1.0)
  _trunk(canvas, person, pose, view)
  _head(canvas, person, pose, view)
  if cos < 0.2:
    _long_hair(canvas, person, pose, view)
  if person.bag_kind == 'backpack':
    if cos <= -0.35:
      _backpack(canvas, person, pose, view)
    elif cos > 0.3:
      _straps(canvas, pose, view)
  if not arms_behind:
    _arm(canvas, person, far, view, 0.94)
  _arm(canvas, person, near, view, 1.0)
  _carried(canvas, person, pose, view)
  return canvas


def _shadow(canvas: Canvas, view: View):
  s = view.scale
  centre = (view.centre + 0.02 * s, view.ground)
  canvas.ellipse(Part.SHADOW, centre, 0.17 * s, 0.022 * s)


def _leg(canvas: Canvas, person: Identity, side: Side, view: View, tone: float):
  s, limb = view.scale, person.body.limb
  hip, knee, ankle = map(view.project, (side.hip, side.knee, side.ankle))
  toe = view.project(side.toe)
  canvas.limb(Part.SKIN, hip, knee, 0.050 * limb * s, 0.034 * limb * s, tone)
  canvas.limb(Part.SKIN, knee, ankle, 0.034 * limb * s, 0.022 * limb * s, tone)
  canvas.limb(Part.SOCKS, ankle, ankle, 0.024 * s, 0.024 * s, tone)
  heel = (ankle[0], ankle[1] + 0.020 * s)
  canvas.limb(Part.SHOES, heel, toe, 0.026 * s, 0.019 * s, tone)
  lower = person.lower
  if lower.kind in ('skirt', 'dress'):
    return
  wide = 0.006 + 0.016 * lower.looseness
  thigh, knee_r, hem_r = ((r * limb + wide) * s for r in (0.052, 0.036, 0.026))
  if lower.kind == 'shorts':
    end = _between(hip, knee, 0.80 + 0.20 * lower.length)
    canvas.limb(Part.LOWER, hip, end, thigh, knee_r + 0.008 * s, tone)
    return
  canvas.limb(Part.LOWER, hip, knee, thigh, knee_r, tone)
  reach = 0.45 + 0.15 * lower.length if lower.kind == 'cropped' else 0.93
  end = _between(knee, ankle, reach)
  canvas.limb(Part.LOWER, knee, end, knee_r, hem_r, tone)


def _between(a, b, share: float):
  return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])


def _trunk(canvas: Canvas, person: Identity, pose: Pose, view: View):
  body, s = person.body, view.scale
  (hx, hy), (cx, cy) = view.project(pose.pelvis), view.project(pose.chest)
  shoulder = view.width(body.shoulder, 0.55 * body.shoulder)
  chest = view.width(0.92 * body.shoulder, DEPTH * body.shoulder)
  waist = view.width(body.hip, DEPTH * body.hip + body.belly)
  hips = view.width(body.hip * 1.08, 0.80 * body.hip)
  belly_shift = math.sin(view.yaw) * 0.5 * max(body.belly, 0.0) * s
  if person.lower.kind in ('skirt', 'dress'):
    _skirt(canvas, person, view, hx, hy, hips)
  else:
    rows = [(hy - 0.05 * s, hx, hips * 0.96), (hy + 0.035 * s, hx, hips)]
    canvas.column(Part.LOWER, rows, 0.98)
  neck = _between((cx, cy), view.project(pose.head), 0.5)
  canvas.limb(Part.SKIN, (cx, cy), neck, 0.030 * s, 0.028 * s, 0.85)
  loose = (0.004 + 0.014 * person.upper.looseness) * s
  hem = hy + (0.02 + 0.025 * person.upper.length) * s
  rows = [
    (cy - 0.030 * s, cx, 0.032 * s),
    (cy - 0.008 * s, cx, shoulder * 0.78),
    (cy + 0.018 * s, cx, shoulder + 0.5 * loose),
    (cy + 0.110 * s, cx + belly_shift / 2, chest + loose),
    (hy - 0.080 * s, hx + belly_shift, waist + loose),
    (hem, hx, hips + loose),
  ]
  canvas.column(Part.UPPER, rows, 1.0)
  if person.coat.kind != 'none':
    _coat(canvas, person, view, rows, hy, hips)


def _skirt(canvas, person: Identity, view: View, hx, hy, hips: float):
  s, lower = view.scale, person.lower
  long = 0.30 if lower.kind == 'dress' else 0.17
  hem = hy + (long + 0.06 * lower.length) * s
  flare = hips + (0.015 + 0.055 * lower.looseness) * s
  rows = [
    (hy - 0.05 * s, hx, hips * 0.95),
    (hy + 0.03 * s, hx, hips * 1.06),
    (hem, hx, flare),
  ]
  canvas.column(Part.LOWER, rows, 0.98)


def _coat(canvas, person: Identity, view: View, rows, hy, hips: float):
  s, coat = view.scale, person.coat
  wide = (0.010 + 0.016 * coat.looseness) * s
  drop = 0.03 if coat.kind == 'jacket' else 0.17 + 0.05 * coat.length
  hem = hy + drop * s
  shell = [(y, c, w + wide) for y, c, w in rows[:-1]]
  shell.append((hy, rows[-1][1], hips + wide))
  shell.append((hem, rows[-1][1], hips + wide * (1.0 if drop < 0.1 else 1.8)))
  canvas.column(Part.COAT, shell, 1.0)
  facing = math.cos(view.yaw)
  if person.coat_open and facing > 0.15:
    shift = math.sin(view.yaw) * 0.06 * s
    gap = (0.018 + 0.022 * facing) * s
    strip = [(y, c + shift, gap) for y, c, _ in rows[1:]]
    canvas.column(Part.UPPER, strip, 0.9)
    low = rows[-1][0]
    if hem > low + 2:
      strip = [(low, rows[-1][1] + shift, gap), (hem, rows[-1][1] + shift, gap)]
      canvas.column(Part.LOWER, strip, 0.85)


def _arm(canvas: Canvas, person: Identity, side: Side, view: View, tone: float):
  s, limb = view.scale, person.body.limb
  points = [view.project(p) for p in (side.shoulder, side.elbow, side.hand)]
  shoulder, elbow, hand = points
  r0, r1, r2 = (r * limb * s for r in (0.028, 0.025, 0.019))
  canvas.limb(Part.SKIN, shoulder, elbow, r0, r1, tone)
  canvas.limb(Part.SKIN, elbow, hand, r1, r2, tone)
  canvas.limb(Part.SKIN, hand, _between(elbow, hand, 1.13), r2, r2, tone)
  coated = person.coat.kind != 'none'
  garment = person.coat if coated else person.upper
  part = Part.COAT if coated else Part.UPPER
  reach = 0.97 if coated else SLEEVES.get(garment.kind, 0.95)
  wide = (0.003 + 0.010 * garment.looseness) * s
  canvas.limb(
    part,
    shoulder,
    _between(shoulder, elbow, min(1.0, 2 * reach)),
    r0 + wide,
    r1 + wide,
    tone,
  )
  if reach > 0.5:
    end = _between(elbow, hand, 2 * reach - 1)
    canvas.limb(part, elbow, end, r1 + wide, r2 + wide, tone)


def _head(canvas: Canvas, person: Identity, pose: Pose, view: View):
  s = view.scale * person.body.head
  x, y = view.project(pose.head)
  cos, sin = math.cos(view.yaw), math.sin(view.yaw)
  rx, ry = 0.047 * s * (1 + 0.10 * abs(sin)), 0.064 * s
  kind = person.hair_kind
  canvas.ellipse(Part.SKIN, (x, y), rx, ry)
  if kind != 'shaved':
    crown = (x - 0.008 * s * sin, y - 0.012 * s)
    canvas.ellipse(Part.HAIR, crown, rx * 1.10, ry * 0.95)
  if cos > -0.45:
    face = rx * max(0.42, 0.55 + 0.36 * cos)
    low = 0.016 * s
    canvas.ellipse(Part.SKIN, (x + 0.024 * s * sin, y + low), face, ry * 0.80)
    if cos > -0.1:
      _features(canvas, x + 0.028 * s * sin, y, s, cos)
  if kind == 'bun' and person.hat_kind == 'none':
    bun = (x - 0.03 * s * sin, y - 0.072 * s)
    canvas.ellipse(Part.HAIR, bun, 0.026 * s, 0.024 * s)
  _hat(canvas, person, x, y, s, sin, cos)


def _features(canvas: Canvas, x: float, y: float, s: float, cos: float):
  apart = 0.017 * s * max(cos, 0.3)
  for eye in (x - apart, x + apart):
    canvas.ellipse(Part.FACE, (eye, y + 0.006 * s), 0.007 * s, 0.004 * s)
  canvas.ellipse(Part.FACE, (x, y + 0.040 * s), 0.011 * s, 0.003 * s)


def _hat(canvas, person: Identity, x, y, s, sin, cos):
  if person.hat_kind == 'none':
    return
  top, band = y - 0.074 * s, y - 0.022 * s
  half = 0.055 * s
  rows = [
    (top, x, half * 0.55),
    (top + 0.016 * s, x, half * 0.9),
    (band, x, half),
  ]
  canvas.column(Part.HAT, rows, 1.0)
  if person.hat_kind == 'cap' and cos > -0.5:
    peak = (x + 0.055 * s * sin, band + 0.004 * s)
    canvas.ellipse(Part.HAT, peak, 0.040 * s, 0.011 * s, 0.8)
  if person.hat_kind == 'brim':
    canvas.ellipse(Part.HAT, (x, band), 0.092 * s, 0.016 * s, 0.85)


def _long_hair(canvas: Canvas, person: Identity, pose: Pose, view: View):
  drop = {'bob': 0.075, 'long': 0.165, 'tail': 0.185}.get(person.hair_kind)
  if drop is None:
    return
  s = view.scale * person.body.head
  x, y = view.project(pose.head)
  sin = math.sin(view.yaw)
  half = 0.018 * s if person.hair_kind == 'tail' else 0.054 * s
  back = x - 0.026 * s * sin * (1.8 if person.hair_kind == 'tail' else 1.0)
  rows = [
    (y - 0.03 * s, x - 0.01 * s * sin, half * 0.95),
    (y + 0.03 * s, back, half),
    (y + drop * s, back, half * 0.75),
  ]
  canvas.column(Part.HAIR, rows, 0.95)


def _backpack(canvas: Canvas, person: Identity, pose: Pose, view: View):
  s, body = view.scale, person.body
  x, y, z = pose.chest
  cx, cy = view.project((x, y - 0.13, z - 0.62 * body.shoulder - 0.05))
  half = view.width(0.085, 0.055)
  rows = [
    (cy - 0.115 * s, cx, half * 0.65),
    (cy - 0.085 * s, cx, half),
    (cy + 0.095 * s, cx, half * 1.05),
    (cy + 0.115 * s, cx, half * 0.8),
  ]
  canvas.column(Part.BAG, rows, 1.0)


def _straps(canvas: Canvas, pose: Pose, view: View):
  x, y, z = pose.chest
  for sign in (-1, 1):
    top = view.project((x + sign * 0.065, y + 0.01, z + 0.03))
    low = view.project((x + sign * 0.070, y - 0.14, z + 0.06))
    canvas.limb(Part.STRAP, top, low, 0.011 * view.scale, 0.011 * view.scale)


def _carried(canvas: Canvas, person: Identity, pose: Pose, view: View):
  s = view.scale
  if person.bag_kind == 'shoulder':
    # Hangs at the left hip from the right shoulder; hidden by the body when
    # the left side is the far one.
    bag = view.project((person.body.hip + 0.05, 0.50, -0.01))
    end = view.project((person.body.hip, 0.56, 0.03 * math.cos(view.yaw)))
    start = view.project(
      (
        -0.6 * person.body.shoulder,
        pose.chest[1] + 0.01,
        0.05 * math.cos(view.yaw),
      )
    )
    canvas.limb(Part.STRAP, start, end, 0.009 * s, 0.009 * s)
    if math.sin(view.yaw) < 0.45:
      half = view.width(0.030, 0.075)
      x, y = bag
      rows = [(y - 0.055 * s, x, half), (y + 0.055 * s, x, half * 1.05)]
      canvas.column(Part.BAG, rows, 0.95)
  elif person.bag_kind == 'hand':
    x, y = view.project(pose.right.hand)
    if math.sin(view.yaw) > -0.6:
      half = view.width(0.030, 0.080)
      canvas.limb(Part.STRAP, (x, y), (x, y + 0.05 * s), 0.008 * s, 0.008 * s)
      rows = [(y + 0.045 * s, x, half * 0.8), (y + 0.14 * s, x, half)]
      canvas.column(Part.BAG, rows, 0.95)
