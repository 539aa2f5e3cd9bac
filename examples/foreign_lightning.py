"""PnP-OVSS inside somebody else's Lightning code: their data module, their Trainer, our module.

`python examples/foreign_lightning.py`. Nothing is downloaded.
"""

from __future__ import annotations

import torch
from lightning import LightningDataModule, Trainer
from ovss.datamodules.scene_generator import CLASSES, draw_scene
from torch.utils.data import DataLoader, Dataset

from ovss import PnPOVSS
from ovss.benchmark import PhotoBatch, of_classes
from ovss.preprocessing import InputSpec, Preprocess
from ovss.segmentation import demo_settings
from ovss.vlm import BlipITM


class Photos(Dataset):
    """Their data: photos `(H, W, 3)` uint8 and masks `(H, W)` uint8, wherever they are kept."""

    def __init__(self, spec: InputSpec, count: int) -> None:
        self.preprocess = Preprocess(spec)
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[str, torch.Tensor, torch.Tensor, torch.Tensor]:
        photo, mask = draw_scene(seed=20_000_000 + index)
        pixels = torch.from_numpy(photo.transpose(2, 0, 1).copy())
        return f"photo{index}", pixels, self.preprocess(photo), torch.from_numpy(mask)


def collate(items: list) -> PhotoBatch:
    """The one thing that `PnPOVSS` wants: a `PhotoBatch`."""
    ids, photos, pixel_values, masks = zip(*items, strict=True)
    present = [tuple(k for k in mask.unique().tolist() if k not in (0, 255)) for mask in masks]
    return PhotoBatch(ids, photos, torch.stack(pixel_values), present, masks)


class TheirData(LightningDataModule):
    """Their data module."""

    def __init__(self, spec: InputSpec, count: int = 8) -> None:
        super().__init__()
        self.dataset = Photos(spec, count)

    def test_dataloader(self) -> DataLoader:
        """Four photos a step."""
        return DataLoader(self.dataset, batch_size=4, collate_fn=collate)

    predict_dataloader = test_dataloader


def main() -> float:
    """Score their photos; the mIoU comes back."""
    benchmark = of_classes(list(CLASSES))
    model = PnPOVSS(BlipITM.from_pretrained("demo"), **demo_settings(), benchmark=benchmark)
    data = TheirData(model.input_spec(benchmark))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    (scores,) = trainer.test(model, datamodule=data)
    predictions = trainer.predict(model, datamodule=data)
    first = predictions[0][0]
    print(
        first.id, tuple(first.labels.shape), [benchmark.classes[k] for k in first.proposal.labels]
    )
    return scores["mIoU"]


if __name__ == "__main__":
    main()
