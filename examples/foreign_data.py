"""Data sets as torchgeo, torchvision and people have them, scored without a line of glue.

`python examples/foreign_data.py`. Nothing is downloaded: the photos are drawn, and served in the
form that each library has. With the real thing it is the same call:

    from_dataset(torchvision.datasets.VOCSegmentation("data", image_set="val"), classes=[...])
"""

from __future__ import annotations

import torch
from lightning import LightningDataModule, Trainer
from ovss.datamodules.scene_generator import CLASSES, draw_scene
from PIL import Image

from ovss import PnPOVSS
from ovss.datamodules import from_dataset
from ovss.segmentation import demo_settings

PHOTOS = 8
NAMES = ["background", *CLASSES]


class GeoScenes:
    """As torchgeo's `NonGeoDataset`: dicts, image `(3, H, W)` float, mask `(H, W)` long."""

    def __len__(self) -> int:
        return PHOTOS

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        photo, mask = draw_scene(seed=20_000_000 + index)
        return {
            "image": torch.from_numpy(photo).permute(2, 0, 1) / 255,
            "mask": torch.from_numpy(mask).long(),
        }


class GeoDataModule(LightningDataModule):
    """As torchgeo's `NonGeoDataModule`: after `setup("test")` it has a `test_dataset`."""

    def setup(self, stage: str) -> None:
        """Open the split."""
        self.test_dataset = GeoScenes()


class VisionScenes:
    """As torchvision's `VOCSegmentation`: tuples of a PIL image and a palette mask."""

    def __len__(self) -> int:
        return PHOTOS

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        photo, mask = draw_scene(seed=20_000_000 + index)
        palette = Image.fromarray(mask)
        palette.putpalette([value for value in range(256) for _ in range(3)])
        return Image.fromarray(photo), palette


def main() -> list[float]:
    """Score both, predict a list of images; the mIoUs come back."""
    model = PnPOVSS("demo", **demo_settings())
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    geo = GeoDataModule()
    geo.setup("test")
    scores = []
    for dataset in (geo.test_dataset, VisionScenes()):
        data = from_dataset(dataset, classes=NAMES, num_workers=0)
        (logged,) = trainer.test(model, datamodule=data, verbose=False)
        scores.append(logged["mIoU"])
        print(f"{type(dataset).__name__}: mIoU {logged['mIoU']:.3f}")
    # Images alone: all names are looked for, as nobody knows what is there.
    images = [VisionScenes()[index][0] for index in range(2)]
    finder = PnPOVSS("demo", **demo_settings(), proposals="all")
    found = trainer.predict(finder, from_dataset(images, ["background", "sun", "tree"]))
    print([photo.id for batch in found for photo in batch])
    return scores


if __name__ == "__main__":
    main()
