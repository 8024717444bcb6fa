"""The constants that decide how hard the rendered task is.

They are part of the dataset's version: change one and `VERSION` of the builder
must rise, because the same seed then gives other pixels.
"""

import dataclasses

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Difficulty:
  """Spreads and probabilities of the renderer, drawn uniformly in a range.

  Attributes:
    body_spread: factor on every deviation from the average body; at 0 all
      people have one shape.
    pattern_attenuation: what is left of a garment's pattern contrast in near
      infrared, drawn once per garment.
    garment_reflectance: near-infrared reflectance of cloth, leather and felt,
      drawn without looking at the colour.
    plain_share: share of garments without a pattern.
    camera_tint: half-width of the colour balance between visible cameras.
    camera_gain: brightness of the darkest and the brightest camera.
    frame_gain: brightness of one frame relative to its camera.
    noise: factor on every camera's sensor noise.
    resolution: size of a person in pixels relative to 288x144, before the
      crop is scaled up again.
    crop_shift: largest shift of the crop as a share of its height and width.
    crop_scale: size of a person relative to a tight crop.
    occlusion: probability that something stands before the person.
    yaw_jitter: half-width, in degrees, around one of eight view angles.
  """

  body_spread: float = 1.25
  pattern_attenuation: Range = (0.45, 1.0)
  garment_reflectance: Range = (0.10, 0.92)
  plain_share: float = 0.15
  camera_tint: float = 0.16
  camera_gain: Range = (0.72, 1.12)
  frame_gain: Range = (0.85, 1.15)
  noise: float = 0.6
  resolution: Range = (0.50, 0.95)
  crop_shift: float = 0.03
  crop_scale: Range = (0.88, 1.00)
  occlusion: float = 0.15
  yaw_jitter: float = 18.0


DIFFICULTY = Difficulty()
