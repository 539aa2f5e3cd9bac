"""The benchmarks' official layouts in miniature, drawn from a seed.

Each function writes a tree and returns the mask values it wrote, by photo id. There are three
photos of odd sizes, higher than wide and wider than high: the first has three classes, the second
one, the third every value that the format has.
"""

import json

import numpy as np
from PIL import Image
from pycocotools import mask as rle

SIZES = ((37, 23), (15, 9), (19, 41))
COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
"""Official COCO ids in 1..182 that no photo has."""
COCO_THINGS = tuple(i for i in range(1, 91) if i not in COCO_GAPS)


def values_of(size, values, index, rng):
    """`(H, W)` uint8 drawn from the values of a format."""
    few = (3, 1, len(values))[index]
    chosen = np.array([*rng.permutation([v for v in values if v not in (0, 255)])[:few], *values])
    if index != 2:
        chosen = np.append(chosen[:few], [v for v in (0, 255) if v in values])
    height, width = size
    blocks = np.resize(chosen, (-(-height // 2), -(-width // 2)))
    if index != 2:
        return blocks.repeat(2, 0).repeat(2, 1)[:height, :width].astype(np.uint8)
    return np.resize(chosen, size).astype(np.uint8)


def save_photo(path, size, rng):
    path.parent.mkdir(parents=True, exist_ok=True)
    small = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC).save(path)


def save_mask(path, values, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        image = image.convert("P")
        image.frombytes(values.tobytes())
        image.putpalette([c for i in range(256) for c in (i, 255 - i, i // 2)])
    image.save(path)


def draw(ids, values, photo, mask, seed=0, palette=False):
    """Write photos and masks; `photo` and `mask` make a path from an id."""
    rng = np.random.default_rng(seed)
    truth = {}
    for index, (photo_id, size) in enumerate(zip(ids, SIZES, strict=True)):
        save_photo(photo(photo_id), size, rng)
        truth[photo_id] = values_of(size, values, index, rng)
        save_mask(mask(photo_id), truth[photo_id], palette)
    return truth


def write_list(path, ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{i}\n" for i in ids), encoding="utf-8")


def voc(root):
    folder = root / "VOCdevkit" / "VOC2012"
    ids = ["2007_000033", "2007_000042", "2008_000002"]
    write_list(folder / "ImageSets" / "Segmentation" / "val.txt", ids)
    return draw(
        ids,
        [*range(21), 255],
        lambda i: folder / "JPEGImages" / f"{i}.jpg",
        lambda i: folder / "SegmentationClass" / f"{i}.png",
        palette=True,
    )


def pascal_context_png(root):
    """As mmsegmentation converts it."""
    folder = root / "VOCdevkit" / "VOC2010"
    ids = ["2008_000002", "2008_000003", "2010_001024"]
    write_list(folder / "ImageSets" / "SegmentationContext" / "val.txt", ids)
    return draw(
        ids,
        range(60),
        lambda i: folder / "JPEGImages" / f"{i}.jpg",
        lambda i: folder / "SegmentationClassContext" / f"{i}.png",
    )


def pascal_context_json(root):
    """As downloaded: regions overlap, later ones over earlier ones; values are category ids."""
    folder = root / "VOCdevkit" / "VOC2010"
    rng = np.random.default_rng(1)
    images, annotations, truth = [], [], {}
    for index, size in enumerate(SIZES):
        name = f"2008_{index:06}"
        number = 2008000000 + index
        save_photo(folder / "JPEGImages" / f"{name}.jpg", size, rng)
        images.append(
            {
                "image_id": number,
                "file_name": f"{name}.jpg",
                "height": size[0],
                "width": size[1],
                "phase": "val",
            }
        )
        painted = np.zeros(size, np.int64)
        categories = rng.permutation(np.arange(1, 460))[: 20 if index == 2 else 5].tolist()
        regions = []
        for category in categories:
            top, left = rng.integers(0, size[0] - 2), rng.integers(0, size[1] - 2)
            regions.append((category, slice(top, top + 4), slice(left, left + 4)))
        if index == 2:  # and every category for itself, on a pixel
            regions += [(c, c // size[1], c % size[1]) for c in range(1, 460)]
        for category, rows, columns in regions:
            inside = np.zeros(size, np.uint8, order="F")
            inside[rows, columns] = 1
            painted[inside > 0] = category
            code = rle.encode(inside)
            code["counts"] = code["counts"].decode()
            annotations.append({"image_id": number, "category_id": category, "segmentation": code})
        truth[name] = painted
    # A training photo, which evaluation must leave alone: its file is not there.
    images.append({"image_id": 7, "file_name": "a.jpg", "height": 9, "width": 9, "phase": "train"})
    annotations.append({"image_id": 7, "category_id": 2, "segmentation": code})
    content = {"images": images, "annos_segmentation": annotations}
    (folder / "trainval_merged.json").write_text(json.dumps(content))
    return truth


def ade20k(root):
    folder = root / "ADEChallengeData2016"
    return draw(
        [f"ADE_val_{i:08}" for i in (1, 2, 3)],
        range(151),
        lambda i: folder / "images" / "validation" / f"{i}.jpg",
        lambda i: folder / "annotations" / "validation" / f"{i}.png",
    )


COCO_IDS = [f"{i:012}" for i in (139, 285, 632)]
STUFF_VALUES = [*(i - 1 for i in range(1, 183) if i not in COCO_GAPS), 255]


def coco_stuff(root, photos="images/val2017", masks="annotations/val2017"):
    """As downloaded: official ids less one, 255 for unlabelled."""
    return draw(
        COCO_IDS,
        STUFF_VALUES,
        lambda i: root / photos / f"{i}.jpg",
        lambda i: root / masks / f"{i}.png",
    )


def coco_converted(root, values, suffix):
    """As mmsegmentation's and GroupViT's scripts convert it."""
    return draw(
        COCO_IDS,
        values,
        lambda i: root / "images" / "val2017" / f"{i}.jpg",
        lambda i: root / "annotations" / "val2017" / f"{i}{suffix}.png",
    )


def coco_instances(root):
    """Photos and instances_val2017.json: polygons, parts, a crowd, overlaps; every category."""
    rng = np.random.default_rng(2)
    images, annotations = [], []
    for index, (name, size) in enumerate(zip(COCO_IDS, SIZES, strict=True)):
        save_photo(root / "images" / "val2017" / f"{name}.jpg", size, rng)
        images.append(
            {"id": int(name), "file_name": f"{name}.jpg", "height": size[0], "width": size[1]}
        )
        things = rng.permutation(COCO_THINGS)[:2] if index != 2 else COCO_THINGS
        for number, category in enumerate(map(int, things)):
            crowd = number == 1
            parts = [
                (rng.random((4, 2)) * size[::-1]).round(2).ravel().tolist()
                for _ in range(1 + number % 2)
            ]
            counts = [5, 9, size[0] * size[1] - 14]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": int(name),
                    "category_id": category,
                    "segmentation": {"size": list(size), "counts": counts} if crowd else parts,
                    "iscrowd": int(crowd),
                }
            )
    path = root / "annotations" / "instances_val2017.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    categories = [{"id": i, "name": str(i)} for i in COCO_THINGS]
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return path


def cityscapes(root, kind="labelIds"):
    values = [*range(34)] if kind == "labelIds" else [*range(19), 255]
    ids = [f"{city}_{i:06}_000019" for i, city in enumerate(("frankfurt", "lindau", "munster"))]

    def place(top, photo_id, suffix):
        return root / top / "val" / photo_id.partition("_")[0] / f"{photo_id}_{suffix}.png"

    return draw(
        ids,
        values,
        lambda i: place("leftImg8bit", i, "leftImg8bit"),
        lambda i: place("gtFine", i, f"gtFine_{kind}"),
    )


def folder(root):
    write_list(root / "classes.txt", ["background", "cat; kitten", "dog", "red car"])
    return draw(
        ["one", "two", "übrige"],
        [0, 1, 2, 3, 255],
        lambda i: root / "photos" / f"{i}.jpg",
        lambda i: root / "masks" / f"{i}.png",
    )


WRITERS = {
    "voc21": voc,
    "voc20": voc,
    "pc60": pascal_context_json,
    "pc59": pascal_context_json,
    "ade150": ade20k,
    "coco_object81": coco_stuff,
    "coco_stuff171": coco_stuff,
    "cityscapes19": cityscapes,
    "folder": folder,
}
"""For each shipped configuration the official layout as downloaded."""
