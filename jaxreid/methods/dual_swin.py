"""The dual-path Swin with modality exchange and the multi-mask triplet.

"A New Paradigm for Cross-Modality Person Re-Identification", the paper of the
NPU-ReID dataset.

The stem and the first two stages of a Swin Transformer exist once per
modality, the last two are shared. Pairs of images exchange a rectangle (MAG),
and the embeddings of each modality are compared with those of the other:

  L = L_id + L_mmt                                              (Eq. 1)

This is the baseline without a triplet of its own, and the two plug-ins.

Synopsis:

  method = dual_swin(480, swin_stages('swin_tiny'))
"""

from collections.abc import Callable, Sequence

from jaxreid.augment import exchange
from jaxreid.method import Batch, Key, Method, Variables
from jaxreid.methods import plugins
from jaxreid.methods.baseline import PLAYER, StageFactory, baseline


def dual_swin(
  num_classes: int,
  stages: Sequence[StageFactory],
  *,
  split: int = 3,
  pooling: str = 'average',
  exchange_probability: float = exchange.PROBABILITY,
  exchange_area: Sequence[float] = exchange.AREA,
  exchange_aspect: Sequence[float] = exchange.ASPECT,
  multi_mask_weight: float = 1.0,
  margin: float = 0.3,
  spread_margin: float = 0.1,
  spread_weight: float = 0.5,
  triplet_weight: float = 1.0,
  label_smoothing: float = 0.0,
  padding: int = 10,
  erasing: float = 0.0,
  test_feature: str = 'neck',
) -> Method:
  """The method of the paper, where it says so; all numbers here are ours.

  Args:
    num_classes: identities in training.
    stages: backbone as a list of stage factories.
    split: stages private to a modality, the stem included: F1 to F5 of table
      8 are 1 to 5, the paper's is F3.
    pooling: 'average'; 'gem' takes the negative features of a Swin for 0.
    exchange_probability: p of MAG; 0 leaves it out.
    exchange_area: A_l and A_h.
    exchange_aspect: r_l and r_h.
    multi_mask_weight: of L_mmt, both directions together.
    margin: m1 of Eq. 1.
    spread_margin: m2.
    spread_weight: lambda; 0 leaves the positive part (MMTP) out.
    triplet_weight: 0 leaves the negative part (MMTN) out.
    label_smoothing: of the identity loss.
    padding: zero pixels around an image before its random crop.
    erasing: probability of random erasing per image.
    test_feature: 'neck' (after the BNNeck) or 'pooled' (before it).

  Raises:
    ValueError: on an option that does not exist or is out of range.
  """
  method = baseline(
    num_classes,
    stages,
    split=split,
    pooling=pooling,
    triplet='none',
    label_smoothing=label_smoothing,
    padding=padding,
    erasing=erasing,
    test_feature=test_feature,
  )
  method = method._replace(init=_equal_streams(method.init))
  if multi_mask_weight:
    method = plugins.with_multi_mask(
      method,
      weight=multi_mask_weight,
      margin=margin,
      spread_margin=spread_margin,
      spread_weight=spread_weight,
      triplet_weight=triplet_weight,
    )
  if exchange_probability:
    method = plugins.with_exchange(
      method,
      probability=exchange_probability,
      area=exchange_area,
      aspect=exchange_aspect,
    )
  return method


def _equal_streams(init: Callable[[Key, Batch], Variables]) -> Callable:
  """Both streams start from the same weights, as from those of ImageNet."""

  def equal(key: Key, batch: Batch) -> Variables:
    variables = init(key, batch)
    backbone = variables['params'][PLAYER]['backbone']
    same = {
      name: backbone[name.replace('infrared_', 'visible_')] for name in backbone
    }
    player = {**variables['params'][PLAYER], 'backbone': same}
    return {**variables, 'params': {PLAYER: player}}

  return equal
