"""Photos a second of each benchmark's loader, and where the time goes.

    python benchmarks/data.py                                # drawn data of the usual sizes
    python benchmarks/data.py --only voc21 --root /data      # data of your own
    python benchmarks/data.py --decoders                     # Pillow against OpenCV

Drawn photos are noise of several scales, which compresses about as photos do; masks are blobs. A
loader is timed from its first batch to its last, so starting the workers does not count. Stages are
CPU time, the least of several runs over the same photos in one process, so that a busy machine does
not blur them. Each process has one thread.
"""

import argparse
import io
import json
import platform
import resource
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from ovss.datamodules.dataset import PhotoDataset
from ovss.datamodules.masks import to_labels
from PIL import Image
from pycocotools import mask as rle

from ovss.datamodules import ADE20K, VOC, Cityscapes, COCOObject, COCOStuff, PascalContext
from ovss.preprocessing import InputSpec, read_photo

SPEC = InputSpec(336, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
STUFF = [i - 1 for i in range(1, 183) if i not in COCO_GAPS]
# (data module, arguments, width, height, photo's suffix, values in the masks)
BENCHMARKS = {
    "voc21": (VOC, {}, 500, 375, [*range(21), 255]),
    "pc60 (JSON)": (PascalContext, {}, 500, 375, range(1, 460)),
    "pc60 (PNG)": (PascalContext, {}, 500, 375, range(60)),
    "ade150": (ADE20K, {}, 683, 512, range(151)),
    "coco_stuff171": (COCOStuff, {}, 640, 480, STUFF),
    "coco_object81": (COCOObject, {}, 640, 480, STUFF),
    "coco_object81 (instances)": (COCOObject, {"protocol": "released"}, 640, 480, range(1, 12)),
    "cityscapes19": (Cityscapes, {}, 2048, 1024, range(34)),
}


def draw_photo(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Noise of several scales, `(height, width, 3)`."""
    photo = np.zeros((height, width, 3), np.float32)
    for scale, strength in ((100, 60), (25, 30), (6, 12), (1, 3)):
        small = rng.normal(0, strength, (height // scale + 2, width // scale + 2, 3))
        photo += cv2.resize(small.astype(np.float32), (width, height))
    return Image.fromarray(np.clip(photo + 120, 0, 255).astype(np.uint8))


def draw_mask(width: int, height: int, values, rng: np.random.Generator) -> np.ndarray:
    """A dozen values in blobs, `(height, width)` uint16."""
    chosen = rng.choice(np.array([*values]), 12)
    small = rng.normal(0, 1, (height // 60 + 2, width // 60 + 2)).astype(np.float32)
    field = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    levels = np.quantile(field, np.linspace(0, 1, 13)[1:-1])
    return chosen[np.digitize(field, levels)].astype(np.uint16)


def write(key: str, root: Path, photos: int, width: int, height: int, values) -> None:
    """A benchmark's official layout with drawn photos."""
    rng = np.random.default_rng(0)
    images, regions, ids = [], [], []
    places = {
        "voc21": (
            "VOCdevkit/VOC2012/JPEGImages/{}.jpg",
            "VOCdevkit/VOC2012/SegmentationClass/{}.png",
        ),
        "pc60 (PNG)": (
            "VOCdevkit/VOC2010/JPEGImages/{}.jpg",
            "VOCdevkit/VOC2010/SegmentationClassContext/{}.png",
        ),
        "pc60 (JSON)": ("VOCdevkit/VOC2010/JPEGImages/{}.jpg", ""),
        "ade150": ("images/validation/{}.jpg", "annotations/validation/{}.png"),
        "coco_object81 (instances)": ("images/val2017/{}.jpg", ""),
        "cityscapes19": (
            "leftImg8bit/val/a/{}_leftImg8bit.png",
            "gtFine/val/a/{}_gtFine_labelIds.png",
        ),
    }
    photo_place, mask_place = places.get(
        key, ("images/val2017/{}.jpg", "annotations/val2017/{}.png")
    )
    for number in range(photos):
        name = f"{number:012}"
        ids.append(name)
        path = root / photo_place.format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_photo(width, height, rng).save(path, quality=90)
        mask = draw_mask(width, height, values, rng)
        if mask_place:
            path = root / mask_place.format(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask.astype(np.uint8)).save(path)
            continue
        images.append(
            {"file_name": f"{name}.jpg", "height": height, "width": width, "phase": "val"}
        )
        images[-1]["id"] = images[-1]["image_id"] = number
        for value in np.unique(mask).tolist():
            code = rle.encode(np.asfortranarray(mask == value).astype(np.uint8))
            outline = {"size": [height, width], "counts": code["counts"].decode()}
            regions.append({"image_id": number, "category_id": value, "segmentation": outline})
    if key.startswith("pc60 (JSON"):
        content = {"images": images, "annos_segmentation": regions}
        (root / "VOCdevkit/VOC2010/trainval_merged.json").write_text(json.dumps(content))
    elif "instances" in key:
        (root / "annotations").mkdir()
        content = {"images": images, "annotations": regions}
        (root / "annotations/instances_val2017.json").write_text(json.dumps(content))
    elif key in ("voc21", "pc60 (PNG)"):
        part = (
            "VOC2012/ImageSets/Segmentation"
            if key == "voc21"
            else ("VOC2010/ImageSets/SegmentationContext")
        )
        listing = root / "VOCdevkit" / part / "val.txt"
        listing.parent.mkdir(parents=True)
        listing.write_text("\n".join(ids))


def stages(dataset: PhotoDataset, photos: int, runs: int = 3) -> dict[str, float]:
    """Milliseconds of CPU time a photo for each step, the least of several runs."""
    split = dataset.split
    samples = split.samples[:photos]
    best: dict[str, float] = {}

    def step(name, function, inputs):
        began = time.process_time()
        outputs = [function(*each) for each in inputs]
        spent = 1e3 * (time.process_time() - began) / len(samples)
        best[name] = min(spent, best.get(name, spent))
        return outputs

    for _ in range(runs):
        pixels = step("decode photo", read_photo, [(sample.photo,) for sample in samples])
        values = step("decode mask", split.read_mask, [(sample,) for sample in samples])
        step("map labels", to_labels, [(value, split.labels, "") for value in values])
        step("resize, normalise", dataset.preprocess, [(photo,) for photo in pixels])
        step("everything", dataset.__getitem__, [(index,) for index in range(len(samples))])
    return best


def rate(module, workers: int) -> float:
    """Photos a second through the loader, from its first batch on."""
    module.num_workers = workers
    batches = iter(module.test_dataloader())
    next(batches)
    began, done = time.perf_counter(), 0
    for batch in batches:
        done += len(batch.ids)
    return done / (time.perf_counter() - began)


def compare_decoders(runs: int = 100) -> None:
    """Decode JPEG photos of several qualities with Pillow and OpenCV."""
    rng = np.random.default_rng(0)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    for width, height in ((500, 375), (640, 480), (497, 371)):
        photo = draw_photo(width, height, rng)
        for quality, subsampling in ((75, 2), (90, 2), (95, 0)):
            buffer = io.BytesIO()
            photo.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
            data = buffer.getvalue()

            def pillow(data=data):
                return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

            def opencv(data=data):
                return cv2.cvtColor(
                    cv2.imdecode(np.frombuffer(data, np.uint8), flags), cv2.COLOR_BGR2RGB
                )

            spent = {"Pillow": [], "OpenCV": []}
            for _ in range(runs):
                for name, decode in (("Pillow", pillow), ("OpenCV", opencv)):
                    began = time.perf_counter()
                    decode()
                    spent[name].append(time.perf_counter() - began)
            equal = "equal" if np.array_equal(pillow(), opencv()) else "DIFFERENT"
            times = ", ".join(f"{name} {1e3 * min(each):.2f} ms" for name, each in spent.items())
            sampling = "4:2:0" if subsampling else "4:4:4"
            print(f"{width} x {height}, quality {quality}, {sampling}: {times}, {equal} pixels")


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    parser.add_argument("--root", type=Path, help="data of your own instead of drawn data")
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--decoders", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print(f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}")
    if options.decoders:
        compare_decoders()
        return
    for key in options.only:
        make, kwargs, width, height, values = BENCHMARKS[key]
        with tempfile.TemporaryDirectory() as folder:
            root = options.root or Path(folder)
            photos = max(16, options.photos // 4) if key == "cityscapes19" else options.photos
            if not options.root:
                write(key, root, photos, width, height, values)
            began = time.perf_counter()
            module = make(root, limit=photos, spec=SPEC, **kwargs)
            module.setup()
            found = time.perf_counter() - began
            steps = stages(module.dataset, min(20, photos))
            rates = ", ".join(f"{n}: {rate(module, n):.0f}" for n in options.workers)
            parts = ", ".join(f"{name} {spent:.1f}" for name, spent in steps.items())
            print(f"{key} ({width} x {height}): photos/s with workers {rates}")
            print(f"    CPU ms a photo: {parts}; files found in {1e3 * found:.0f} ms", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of this process {peak:.0f} MiB")


if __name__ == "__main__":
    main()
