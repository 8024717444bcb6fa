"""Two ways to feed LUPI's step in PyTorch: from the device, and as in public.

Synopsis:

  raw = DeviceBatches(table, sampler, device)        # pixels on the device
  images, labels = raw.next()
  for images, labels in host_batches(table, sampler, workers): ...

On the device the augmentation is one gather of pixels per modality; on the
host it is Pillow's, an image at a time, in the workers of a `DataLoader`, as
the code published with AGW and LUPI has it.
"""

import math
import random
from collections.abc import Generator, Iterator

import numpy as np
import torch
from PIL import Image, ImageOps

from jaxreid.augment.color import IMAGENET_MEAN, IMAGENET_STD
from jaxreid.data.sampler import IdentitySampler
from jaxreid.data.source import Table

FILL = (0.4914, 0.4822, 0.4465)
AREA, ASPECT = (0.02, 0.4), (0.3, 1 / 0.3)


class DeviceBatches:
  """The table on the device, and batches gathered and augmented there."""

  def __init__(
    self,
    table: Table,
    sampler: IdentitySampler,
    device: torch.device,
    padding: int,
    compiled: bool,
  ):
    self.pixels = torch.from_numpy(np.array(table.images)).to(device)
    self.device, self.padding = device, padding
    self.mean = 255 * torch.tensor(IMAGENET_MEAN, device=device)
    self.scale = 1 / (255 * torch.tensor(IMAGENET_STD, device=device))
    self.fill = torch.tensor(FILL, device=device)
    self._rows = self._ahead(sampler)
    self._augment = torch.compile(self.augment) if compiled else self.augment

  def _ahead(self, sampler: IdentitySampler) -> Iterator[torch.Tensor]:
    step = 0
    while True:
      names = ('visible', 'infrared', 'label')
      rows = np.stack([sampler[step][name] for name in names])
      yield torch.from_numpy(rows.astype(np.int64)).to(
        self.device, non_blocking=True
      )
      step += 1

  def next(self) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Stream -> [N, 3, H, W] in channels-last, and labels."""
    rows = next(self._rows)
    return self._augment(rows[0], rows[1]), rows[2]

  def augment(self, visible_rows, infrared_rows) -> dict[str, torch.Tensor]:
    """Each stream with a crop, a flip and a rectangle of its own."""
    visible = self.pixels[visible_rows]
    weights = torch.rand(len(visible), 1, 1, 3, device=self.device)
    weights = weights / weights.sum(-1, keepdim=True)
    gray = (visible * weights).sum(-1, keepdim=True).floor()
    images = {
      'visible': visible,
      'infrared': self.pixels[infrared_rows],
      'intermediate': gray.expand(-1, -1, -1, 3),
    }
    return {name: self._view(x) for name, x in images.items()}

  def _view(self, images):
    n, h, w, _ = images.shape
    offsets = torch.randint(
      0, 2 * self.padding + 1, (n, 2, 1), device=self.device
    )
    rows = torch.arange(h, device=self.device)[None]
    columns = torch.arange(w, device=self.device)[None]
    flipped = torch.rand(n, 1, device=self.device) < 0.5
    y = rows + offsets[:, 0] - self.padding
    x = torch.where(flipped, w - 1 - columns, columns)
    x = x + offsets[:, 1] - self.padding
    inside = ((y >= 0) & (y < h))[:, :, None] & ((x >= 0) & (x < w))[:, None]
    which = torch.arange(n, device=self.device)[:, None, None]
    cut = images[
      which, y.clamp(0, h - 1)[:, :, None], x.clamp(0, w - 1)[:, None]
    ]
    cut = torch.where(inside[..., None], cut.float(), 0.0)
    cut = (cut - self.mean) * self.scale
    erased = self._rectangles(n, rows, columns, h, w)
    cut = torch.where(erased[..., None], self.fill, cut)
    # [N, H, W, 3] in memory is [N, 3, H, W] in channels-last.
    return cut.permute(0, 3, 1, 2)

  def _rectangles(self, n, rows, columns, h, w):
    """Where to erase; a rectangle that is too large is cut, not redrawn."""

    def uniform(low, high):
      return torch.empty(n, 1, device=self.device).uniform_(low, high)

    area, aspect = h * w * uniform(*AREA), uniform(*ASPECT)
    chosen = uniform(0, 1) < 0.5
    height = (area * aspect).sqrt().round().clamp(max=h - 1) * chosen
    width = (area / aspect).sqrt().round().clamp(max=w - 1) * chosen
    top = (uniform(0, 1) * (h - height)).floor()
    left = (uniform(0, 1) * (w - width)).floor()
    in_rows = (rows >= top) & (rows < top + height)
    in_columns = (columns >= left) & (columns < left + width)
    return in_rows[:, :, None] & in_columns[:, None]


class HostImages(torch.utils.data.Dataset):
  """Item i is an identity's visible, infrared and gray image, augmented."""

  def __init__(self, table: Table, sampler: IdentitySampler, padding: int):
    self.images, self.sampler, self.padding = table.images, sampler, padding

  def __len__(self) -> int:
    return 1 << 30

  def __getitem__(self, index: int):
    step, i = divmod(index, self.sampler.batch_size)
    rows = self.sampler[step]
    visible = Image.fromarray(self.images[rows['visible'][i]])
    infrared = Image.fromarray(self.images[rows['infrared'][i]])
    weights = np.random.rand(3)
    gray = np.asarray(visible) @ (weights / weights.sum())
    gray = Image.fromarray(gray.astype(np.uint8)).convert('RGB')
    views = [self._view(x) for x in (visible, infrared, gray)]
    return *views, int(rows['label'][i])

  def _view(self, image: Image.Image) -> torch.Tensor:
    width, height = image.size
    image = ImageOps.expand(image, self.padding)
    left = random.randint(0, 2 * self.padding)
    top = random.randint(0, 2 * self.padding)
    image = image.crop((left, top, left + width, top + height))
    if random.random() < 0.5:
      image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    mean, std = (
      torch.tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return self._erase((pixels - mean) / std)

  def _erase(self, image: torch.Tensor) -> torch.Tensor:
    _, h, w = image.shape
    for _ in range(100 if random.random() < 0.5 else 0):
      area, aspect = h * w * random.uniform(*AREA), random.uniform(*ASPECT)
      height = round(math.sqrt(area * aspect))
      width = round(math.sqrt(area / aspect))
      if height < h and width < w:
        top, left = random.randint(0, h - height), random.randint(0, w - width)
        fill = torch.tensor(FILL)[:, None, None]
        image[:, top : top + height, left : left + width] = fill
        break
    return image


def host_batches(
  table: Table,
  sampler: IdentitySampler,
  padding: int,
  device: torch.device,
  workers: int,
) -> Generator[tuple[dict[str, torch.Tensor], torch.Tensor], None, None]:
  """Batches of `HostImages`, made by `workers` processes."""
  loader = torch.utils.data.DataLoader(
    HostImages(table, sampler, padding),
    batch_size=sampler.batch_size,
    sampler=range(1 << 30),
    num_workers=workers,
    drop_last=True,
  )
  for visible, infrared, gray, labels in loader:
    images = {'visible': visible, 'infrared': infrared, 'intermediate': gray}
    yield {name: x.to(device) for name, x in images.items()}, labels.to(device)
