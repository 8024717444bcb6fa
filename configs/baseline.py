"""The baseline, AGW: identity loss and weighted regularised triplet.

  python -m jaxreid.main --config=configs/baseline.py --workdir=/tmp/agw

Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook",
2021. Published on SYSU-MM01, infrared->visible, all-search, single-shot:
rank-1 47.50 %, mAP 47.65 %. The same run as `configs/lupi.py:ablation=agw`.

Options after the colon: dataset=synthetic_reid (default), sysu_mm01, regdb,
npu_reid; trial=1 to 10 or all, of RegDB; modalities=visible+infrared
(default), visible, infrared or gray.
"""

import ml_collections

from configs import common, lupi


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """AGW over the chosen modalities."""
  options = common.parse_arg(
    arg, dataset='synthetic_reid', trial='', modalities='visible+infrared'
  )
  config = lupi.get_config(
    f'dataset={options["dataset"]},trial={options["trial"]},ablation=agw'
  )
  config.method.modalities = tuple(options['modalities'].split('+'))
  return config
