"""A data set of Hugging Face's `datasets`: rows with an `image` and an `annotation`.

`python examples/hugging_face.py` (with `pip install datasets`). Nothing is downloaded: the data set
is made here. `load_dataset(NAME, split="validation")` gives one of the hub's.
"""

from __future__ import annotations

from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from lightning import Trainer
from ovss.datamodules.scene_generator import CLASSES, draw_scene
from PIL import Image

from ovss import PnPOVSS
from ovss.datamodules import from_dataset
from ovss.segmentation import demo_settings


def drawn(count: int) -> Dataset:
    """Rows of drawn scenes."""
    scenes = [draw_scene(seed=20_000_000 + index) for index in range(count)]
    columns = {
        "name": [f"scene{index}" for index in range(count)],
        "image": [Image.fromarray(photo) for photo, _ in scenes],
        "annotation": [Image.fromarray(mask) for _, mask in scenes],
    }
    features = Features(name=Value("string"), image=ImageFeature(), annotation=ImageFeature())
    return Dataset.from_dict(columns, features=features)


def main() -> float:
    """Score the rows; the mIoU comes back."""
    data = from_dataset(
        drawn(8),
        classes=["background", *CLASSES],
        mask="annotation",
        ids="name",
        name="drawn",
        num_workers=0,
    )
    model = PnPOVSS("demo", **demo_settings())
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    (scores,) = trainer.test(model, datamodule=data, verbose=False)
    print(f"{data.photo_ids[0]} ... mIoU {scores['mIoU']:.3f}")
    return scores["mIoU"]


if __name__ == "__main__":
    main()
