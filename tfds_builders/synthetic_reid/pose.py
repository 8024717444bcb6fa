"""Where the joints of a walking person are, seen from an angle.

    pose = walk(body, phase=1.3, swing=1.0)       joints in the body's frame
    view = View(yaw, pitch, scale, centre, ground)
    x, y = view.project(pose.left.knee)           pixels

The body's frame: x to the person's left, y up, z to the front, in body heights.
"""

import dataclasses
import math
from typing import NamedTuple

from tfds_builders.synthetic_reid.identity import Body

Point = tuple[float, float, float]
Pixel = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Side:
  """Joints of one side of the body."""

  shoulder: Point
  elbow: Point
  hand: Point
  hip: Point
  knee: Point
  ankle: Point
  toe: Point


@dataclasses.dataclass(frozen=True)
class Pose:
  """Joints of a body; `pelvis`, `chest` and `head` are centres."""

  left: Side
  right: Side
  pelvis: Point
  chest: Point
  head: Point
  lowest: float


class View(NamedTuple):
  """An orthographic camera: `yaw` 0 looks into the face, angles in radians.

  `scale` is pixels per body height, `centre` the column of the body's axis
  and `ground` the row of its soles.
  """

  yaw: float
  pitch: float
  scale: float
  centre: float
  ground: float

  def project(self, point: Point) -> Pixel:
    """Returns the pixel (column, row) of a point in the body's frame."""
    x, y, z = point
    cos, sin = math.cos(self.yaw), math.sin(self.yaw)
    across, near = x * cos + z * sin, z * cos - x * sin
    row = y * math.cos(self.pitch) - near * math.sin(self.pitch)
    return self.centre + self.scale * across, self.ground - self.scale * row

  def width(self, across: float, deep: float) -> float:
    """Returns the half-width in pixels of an ellipse seen from this angle."""
    cos, sin = math.cos(self.yaw), math.sin(self.yaw)
    return self.scale * math.hypot(across * cos, deep * sin)


def walk(body: Body, phase: float, swing: float) -> Pose:
  """Returns the joints at a phase (radians) of the walking cycle.

  `swing` scales the steps; at 0 the person stands.
  """
  rise = 0.30 + 0.4 * (body.hip_height - 0.51)
  top = body.hip_height + rise
  forward = math.sin(body.lean) * rise
  left = _side(body, phase, swing, 1.0, top, forward)
  right = _side(body, phase + math.pi, swing, -1.0, top, forward)
  return Pose(
    left=left,
    right=right,
    pelvis=(0.0, body.hip_height, 0.0),
    chest=(0.0, top, forward),
    head=(0.0, top + 0.118 - body.stoop, forward + 1.5 * body.stoop),
    lowest=min(left.ankle[1], right.ankle[1]) - 0.035,
  )


def _side(
  body: Body,
  phase: float,
  swing: float,
  sign: float,
  top: float,
  forward: float,
) -> Side:
  thigh = swing * body.stride * math.sin(phase) + 0.03
  # The knee bends while its leg swings forward, and a little in stance.
  flex = 0.06 + 1.5 * swing * body.stride * max(0.0, math.cos(phase)) ** 2
  shin = thigh - flex
  hip = (sign * body.hip * 0.55, body.hip_height, 0.0)
  half = (body.hip_height - 0.04) / 2
  knee = _swing(hip, half, thigh)
  ankle = _swing(knee, half, shin)
  toe = (
    ankle[0] + sign * 0.012,
    ankle[1] - 0.028 + 0.05 * min(0.0, shin + 0.2),
    ankle[2] + 0.062,
  )
  upper = -swing * body.arm_swing * math.sin(phase) - 0.05
  shoulder = (sign * (body.shoulder - 0.012), top - 0.026, forward)
  elbow = _swing(shoulder, 0.165, upper, sign * 0.030)
  hand = _swing(elbow, 0.155, upper + body.elbow, sign * 0.006)
  return Side(shoulder, elbow, hand, hip, knee, ankle, toe)


def _swing(
  start: Point, length: float, angle: float, out: float = 0.0
) -> Point:
  x, y, z = start
  return x + out, y - length * math.cos(angle), z + length * math.sin(angle)
