"""Writes drawn scenes as a data set in the layout of PASCAL VOC."""

import logging
import shutil
import tempfile
from pathlib import Path

from PIL import Image

from ovss.benchmark import voc_palette

from .scene import draw_scene

log = logging.getLogger(__name__)

TRAIN_SEED = 0
"""Training scenes have the seeds from here on, below `DEV_SEED`."""
DEV_SEED = 10_000_000
VAL_SEED = 20_000_000


def _write_scene(folder: Path, size: int, scene: tuple[str, int]) -> None:
    name, seed = scene
    photo, mask = draw_scene(seed, size)
    # Full colour resolution: the patterns that tell the classes apart are a few pixels wide.
    Image.fromarray(photo).save(folder / "JPEGImages" / f"{name}.jpg", quality=95, subsampling=0)
    image = Image.fromarray(mask)
    image.putpalette([value for colour in voc_palette(256) for value in colour])
    image.save(folder / "SegmentationClass" / f"{name}.png")


def write_scenes(root: str | Path, dev: int = 400, val: int = 400, size: int = 128) -> Path:
    """Draws the splits `dev` (for choosing settings) and `val` (held out) into `root`.

    The files are the same bytes each time on given versions of NumPy, OpenCV and Pillow. They
    appear all at once: an interrupted run leaves nothing behind that looks finished. 800 scenes
    take some 6 s of a core, which is why no other process helps: it would import for as long.

    Args:
        root: Folder that gets `VOCdevkit/VOC2012`, with JPEG photos, palette masks and split lists.
        dev: Scenes in the dev split.
        val: Scenes in the val split.
        size: Height and width of a scene in pixels.

    Returns:
        The folder `VOC2012`.

    Raises:
        FileExistsError: If `root` holds a VOCdevkit already.
    """
    target = Path(root) / "VOCdevkit"
    if target.exists():
        raise FileExistsError(
            f"Expected `root` to hold no scenes yet, but got {target}: delete it to draw anew."
        )
    splits = {
        "dev": [(f"dev_{i:05d}", DEV_SEED + i) for i in range(dev)],
        "val": [(f"val_{i:05d}", VAL_SEED + i) for i in range(val)],
    }
    scenes = [scene for split in splits.values() for scene in split]
    log.info("drawing %d scenes into %s", len(scenes), target.parent.absolute())
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".VOCdevkit-", dir=target.parent))
    folder = temporary / "VOC2012"
    try:
        temporary.chmod(0o755)  # mkdtemp's folders are private, a data set is not
        for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (folder / name).mkdir(parents=True)
        for scene in scenes:
            _write_scene(folder, size, scene)
        for split, listed in splits.items():
            text = "".join(f"{name}\n" for name, _ in listed)
            (folder / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(text)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target / "VOC2012"
