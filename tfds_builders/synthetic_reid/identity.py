"""Who a person is: body, hair, skin, clothes, and how each reflects light.

    person = draw_identity(seed=0, number=7)
    person.upper.kind, person.upper.visible, person.upper.infrared

Every material has a visible colour and a near-infrared reflectance. For cloth
the second is drawn without looking at the first, as with real dyes, which are
mostly transparent beyond 750 nm. Skin and hair have their typical brightness.
"""

import colorsys
import dataclasses

import numpy as np

from tfds_builders.synthetic_reid.difficulty import DIFFICULTY, Difficulty

Colour = tuple[float, float, float]

UPPER_KINDS = ('tank', 't-shirt', 'three-quarter', 'shirt', 'sweater')
LOWER_KINDS = ('trousers', 'trousers', 'cropped', 'shorts', 'skirt', 'dress')
COAT_KINDS = ('none', 'none', 'none', 'jacket', 'coat')
PATTERNS = ('stripes', 'checks', 'print')
HAIR_KINDS = ('shaved', 'short', 'short', 'bob', 'long', 'tail', 'bun')
HAT_KINDS = ('none', 'none', 'none', 'cap', 'beanie', 'brim')
BAG_KINDS = ('none', 'none', 'backpack', 'shoulder', 'hand')

_SKIN = (
  (0.96, 0.80, 0.69),
  (0.87, 0.67, 0.53),
  (0.72, 0.50, 0.36),
  (0.52, 0.34, 0.23),
  (0.36, 0.23, 0.16),
)
_HAIR = (
  (0.08, 0.07, 0.07),
  (0.20, 0.13, 0.08),
  (0.36, 0.23, 0.13),
  (0.76, 0.60, 0.34),
  (0.55, 0.24, 0.10),
  (0.62, 0.61, 0.60),
)


@dataclasses.dataclass(frozen=True)
class Material:
  """Two shades of one thing in both kinds of light, each in 0..1.

  A pattern runs from `visible[0]` to `visible[1]`; in near infrared from
  `infrared[0]` to `infrared[1]`, with the contrast that the dye leaves.
  """

  visible: tuple[Colour, Colour]
  infrared: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Garment(Material):
  """A garment: what it is, how it is cut, and its pattern.

  `length` is the cut's hem position, `looseness` its width beyond the body,
  `pattern` one of 'plain' and `PATTERNS`, `pattern_seed` draws its geometry.
  """

  kind: str
  length: float
  looseness: float
  pattern: str
  pattern_seed: int


@dataclasses.dataclass(frozen=True)
class Body:
  """Shape and gait; lengths are shares of the body height.

  `height` is relative to the average person. `stride` and `arm_swing` are
  angles in radians, `lean` is the forward lean of the trunk, `stoop` lowers
  the head.
  """

  height: float
  build: float
  shoulder: float
  hip: float
  hip_height: float
  belly: float
  limb: float
  head: float
  stride: float
  arm_swing: float
  elbow: float
  lean: float
  stoop: float


@dataclasses.dataclass(frozen=True)
class Identity:
  """Everything that stays the same over all images of one person."""

  number: int
  body: Body
  skin: Material
  hair: Material
  hair_kind: str
  shoes: Material
  upper: Garment
  lower: Garment
  coat: Garment
  coat_open: bool
  bag: Material
  bag_kind: str
  hat: Material
  hat_kind: str


def draw_identity(
  seed: int, number: int, difficulty: Difficulty = DIFFICULTY
) -> Identity:
  """Draws person `number` of the world `seed`; a pure function of both."""
  rng = np.random.default_rng((seed, number))
  upper = _garment(rng, UPPER_KINDS, difficulty)
  lower = _garment(rng, LOWER_KINDS, difficulty)
  return Identity(
    number=number,
    body=_body(rng, difficulty.body_spread),
    skin=_natural(rng, _SKIN, 0.60, 0.72),
    hair=_natural(rng, _HAIR, 0.14, 0.42),
    hair_kind=_choose(rng, HAIR_KINDS),
    shoes=_material(rng, difficulty),
    upper=upper,
    lower=lower,
    coat=_garment(rng, COAT_KINDS, difficulty),
    coat_open=bool(rng.random() < 0.6),
    bag=_material(rng, difficulty),
    bag_kind=_choose(rng, BAG_KINDS),
    hat=_material(rng, difficulty),
    hat_kind=_choose(rng, HAT_KINDS),
  )


def luminance(colour: Colour) -> float:
  """Returns the brightness that the eye sees in a colour (Rec. 601)."""
  return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def _choose(rng: np.random.Generator, kinds: tuple[str, ...]) -> str:
  return kinds[int(rng.integers(len(kinds)))]


def _body(rng: np.random.Generator, spread: float) -> Body:
  def around(centre: float, deviation: float) -> float:
    return centre + deviation * spread * float(rng.uniform(-1, 1))

  build = around(1.0, 0.24)
  return Body(
    height=around(0.94, 0.06),
    build=build,
    shoulder=around(0.112, 0.020) * (0.6 + 0.4 * build),
    hip=around(0.082, 0.014) * (0.5 + 0.5 * build),
    hip_height=around(0.510, 0.028),
    belly=around(0.0, 0.022) + 0.05 * (build - 1.0),
    limb=around(1.0, 0.16) * (0.5 + 0.5 * build),
    head=around(1.0, 0.09),
    stride=around(0.42, 0.16),
    arm_swing=around(0.42, 0.24),
    elbow=around(0.40, 0.25),
    lean=around(0.05, 0.05),
    stoop=around(0.012, 0.012),
  )


def _natural(
  rng: np.random.Generator, colours: tuple[Colour, ...], low: float, high: float
) -> Material:
  colour = colours[int(rng.integers(len(colours)))]
  infrared = float(rng.uniform(low, high))
  return Material((colour, colour), (infrared, infrared))


def _dye(rng: np.random.Generator) -> Colour:
  hue, kind = rng.random(), rng.random()
  if kind < 0.3:  # black, gray, white
    return colorsys.hsv_to_rgb(
      hue, 0.06, rng.choice((0.1, 0.2, 0.45, 0.7, 0.92))
    )
  return colorsys.hsv_to_rgb(
    hue, rng.uniform(0.35, 0.95), rng.uniform(0.25, 0.95)
  )


def _material(rng: np.random.Generator, difficulty: Difficulty) -> Material:
  colour = _dye(rng)
  infrared = float(rng.uniform(*difficulty.garment_reflectance))
  return Material((colour, colour), (infrared, infrared))


def _second_dye(rng: np.random.Generator, first: Colour) -> Colour:
  for _ in range(20):
    second = _dye(rng)
    if abs(luminance(second) - luminance(first)) > 0.3:
      break
  return second


def _garment(
  rng: np.random.Generator, kinds: tuple[str, ...], difficulty: Difficulty
) -> Garment:
  first = _dye(rng)
  second = _second_dye(rng, first)
  base = float(rng.uniform(*difficulty.garment_reflectance))
  left = float(rng.uniform(*difficulty.pattern_attenuation))
  contrast = left * (luminance(second) - luminance(first))
  # A pattern that would leave 0..1 is turned round: dyes may do that too.
  if not 0.04 <= base + contrast <= 0.96:
    contrast = -contrast
  other = min(max(base + contrast, 0.04), 0.96)
  plain = rng.random() < difficulty.plain_share
  pattern = 'plain' if plain else _choose(rng, PATTERNS)
  return Garment(
    visible=(first, second),
    infrared=(base, other),
    kind=_choose(rng, kinds),
    length=float(rng.uniform(-1, 1)),
    looseness=float(rng.uniform(0, 1)),
    pattern=pattern,
    pattern_seed=int(rng.integers(2**31)),
  )
