"""What people get wrong about data: errors name the files, the layout and the remedy."""

import json
import shutil

import miniatures
import numpy as np
import pytest
from PIL import Image

from ovss.datamodules import (
    ADE20K,
    VOC,
    Cityscapes,
    COCOObject,
    COCOStuff,
    DatasetNotFoundError,
    Folder,
    PascalContext,
)
from ovss.preprocessing import InputSpec

# pycocotools' compiled code does not know NumPy 2's `copy` keyword yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SPEC = InputSpec(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
EVERY = {
    "voc21": (VOC, miniatures.voc, {}),
    "pc60": (PascalContext, miniatures.pascal_context_json, {}),
    "ade150": (ADE20K, miniatures.ade20k, {}),
    "coco_object81": (COCOObject, miniatures.coco_stuff, {}),
    "coco_stuff171": (COCOStuff, miniatures.coco_stuff, {}),
    "cityscapes19": (Cityscapes, miniatures.cityscapes, {}),
}


def opened(module, root, limit=3, **kwargs):
    data = module(root, limit=limit, num_workers=0, spec=SPEC, **kwargs)
    data.setup()
    return data.dataset


def remove_photo(root, suffix):
    photo = sorted(path for path in root.rglob(f"*{suffix}") if "gtFine" not in str(path))[1]
    photo.unlink()
    return photo


@pytest.mark.parametrize("key", EVERY)
def test_a_wrong_root_shows_the_layout_and_the_command(key, tmp_path):
    module, _, kwargs = EVERY[key]
    with pytest.raises(DatasetNotFoundError) as error:
        opened(module, tmp_path / "empty", **kwargs)
    message = str(error.value)
    assert str(tmp_path / "empty") in message
    assert "<id>" in message or "<city>" in message or "<number>" in message
    assert f"train_free_eval.py prepare --config {key} " in message


@pytest.mark.parametrize("key", EVERY)
def test_a_renamed_folder_shows_the_layout(key, tmp_path):
    module, write, kwargs = EVERY[key]
    write(tmp_path)
    photo = next(p for p in sorted(tmp_path.rglob("*.*")) if p.suffix in (".jpg", ".png"))
    # What Cityscapes' cities are called does not matter.
    folder = photo.parents[1] if key == "cityscapes19" else photo.parent
    folder.rename(folder.with_name("renamed"))
    with pytest.raises(FileNotFoundError, match=r"prepare --config|are missing"):
        opened(module, tmp_path, **kwargs)


@pytest.mark.parametrize("key", EVERY)
def test_a_part_must_be_asked_for(key, tmp_path):
    module, write, kwargs = EVERY[key]
    write(tmp_path)
    with pytest.raises(ValueError, match=r"but found 3 .*`limit`"):
        opened(module, tmp_path, limit=None, **kwargs)
    assert len(opened(module, tmp_path, limit=2, **kwargs)) == 2


@pytest.mark.parametrize("key", EVERY)
def test_a_missing_photo_is_listed(key, tmp_path):
    module, write, kwargs = EVERY[key]
    write(tmp_path)
    photo = remove_photo(tmp_path, "leftImg8bit.png" if key == "cityscapes19" else ".jpg")
    stem = photo.name.removesuffix(photo.suffix).removesuffix("_leftImg8bit")
    with pytest.raises(FileNotFoundError, match=stem):
        opened(module, tmp_path, **kwargs)


def test_a_missing_photo_of_instances_is_listed(tmp_path):
    miniatures.coco_instances(tmp_path)
    photo = remove_photo(tmp_path, ".jpg")
    with pytest.raises(FileNotFoundError, match=photo.name):
        opened(COCOObject, tmp_path, truth="instances")


def test_missing_masks_are_counted_and_five_listed(tmp_path):
    folder = tmp_path / "ADEChallengeData2016"
    miniatures.ade20k(tmp_path)
    for number in range(10, 20):
        shutil.copy(
            folder / "images/validation/ADE_val_00000001.jpg",
            folder / f"images/validation/ADE_val_{number:08}.jpg",
        )
    with pytest.raises(FileNotFoundError, match="10 photos have no mask and 0 masks") as error:
        opened(ADE20K, tmp_path)
    assert str(error.value).count("ADE_val_000000") == 5


@pytest.mark.parametrize("key", ["ade150", "coco_stuff171", "coco_object81", "cityscapes19"])
def test_unknown_label_values(key, tmp_path):
    module, write, kwargs = EVERY[key]
    write(tmp_path)
    masks = [p for p in sorted(tmp_path.rglob("*.png")) if "leftImg8bit" not in p.name]
    values = np.array(Image.open(masks[0]))
    values[0, 0] = 200
    Image.fromarray(values).save(masks[0])
    with pytest.raises(ValueError, match=rf"{masks[0].name}, but got \[200\]"):
        opened(module, tmp_path, **kwargs)[0]


def test_unknown_categories(tmp_path):
    path = miniatures.coco_instances(tmp_path)
    content = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = 12
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"instances_val2017\.json, but got 12"):
        opened(COCOObject, tmp_path, truth="instances")


@pytest.mark.parametrize("text", ['{"images": [', '{"images": [{"file_name": "a"}]}', "[]"])
def test_broken_json(text, tmp_path):
    path = miniatures.coco_instances(tmp_path)
    path.write_text(text)
    with pytest.raises(ValueError, match=r"instances_val2017\.json"):
        opened(COCOObject, tmp_path, truth="instances")


def test_annotations_of_another_size(tmp_path):
    miniatures.pascal_context_json(tmp_path)
    Image.new("RGB", (8, 9)).save(tmp_path / "VOCdevkit/VOC2010/JPEGImages/2008_000000.jpg")
    with pytest.raises(ValueError, match=r"9 x 8 .*but got 37 x 23"):
        opened(PascalContext, tmp_path)[0]
    path = tmp_path / "VOCdevkit/VOC2010/trainval_merged.json"
    path.write_text(path.read_text().replace('"height": 37', '"height": 36'))
    with pytest.raises(ValueError, match="36 x 23"):
        opened(PascalContext, tmp_path)


def test_a_list_with_a_photo_twice(tmp_path):
    miniatures.voc(tmp_path)
    path = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    path.write_text(path.read_text() + "2007_000033\n")
    with pytest.raises(ValueError, match=r"every photo once .*2007_000033"):
        opened(VOC, tmp_path)
    path.write_text("")
    with pytest.raises(ValueError, match=r"photo names in .*val\.txt"):
        opened(VOC, tmp_path)


def test_half_a_conversion_falls_back_to_the_whole_original(tmp_path):
    miniatures.cityscapes(tmp_path)
    miniatures.cityscapes(tmp_path, "labelTrainIds")
    next(tmp_path.rglob("*_labelTrainIds.png")).unlink()
    assert opened(Cityscapes, tmp_path).split.source == "gtFine/val/*_gtFine_labelIds.png"
    next(tmp_path.rglob("*_labelIds.png")).unlink()
    with pytest.raises(FileNotFoundError, match="1 photos have no mask"):
        opened(Cityscapes, tmp_path)


def test_files_that_macos_leaves_are_no_data(tmp_path):
    miniatures.ade20k(tmp_path)
    for folder, suffix in (("images", "jpg"), ("annotations", "png")):
        path = tmp_path / "ADEChallengeData2016" / folder / "validation"
        (path / f"._ADE_val_00000001.{suffix}").write_bytes(b"x")
    assert len(opened(ADE20K, tmp_path)) == 3


@pytest.mark.parametrize("key", EVERY)
def test_data_is_never_written_to(key, tmp_path):
    module, write, kwargs = EVERY[key]
    write(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    dataset = opened(module, tmp_path, **kwargs)
    _ = [dataset[i] for i in range(3)]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_non_ascii_paths(tmp_path):
    root = tmp_path / "Überblick 図"
    miniatures.coco_stuff(root)
    assert len(opened(COCOStuff, root)[0]["mask"]) == 37


@pytest.mark.parametrize("kwargs", [{"limit": 0}, {"batch_size": 0}, {"num_workers": -1}])
def test_numbers_that_make_no_sense(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        VOC("x", **kwargs)


# ---- one's own folder ----------------------------------------------------------------------------


def test_folder_classes(tmp_path):
    miniatures.folder(tmp_path)
    benchmark = Folder(tmp_path).benchmark
    assert benchmark.classes == ("background", "cat", "dog", "red car")
    assert benchmark.prompts == ((), ("cat", "kitten"), ("dog",), ("red car",))
    assert (benchmark.background, benchmark.background_rule) == (0, "always")
    (tmp_path / "classes.txt").write_text("cat\ndog\nred car\nblue car\n")
    benchmark = Folder(tmp_path).benchmark
    assert benchmark.classes == ("cat", "dog", "red car", "blue car")
    assert (benchmark.background, benchmark.background_rule) == (None, "never")
    assert len(set(benchmark.palette)) == 4


def test_folder_without_masks(tmp_path):
    miniatures.folder(tmp_path)
    shutil.rmtree(tmp_path / "masks")
    assert "mask" not in opened(Folder, tmp_path)[0]
    with pytest.raises(DatasetNotFoundError, match="truth/<name>"):
        opened(Folder, tmp_path, masks="truth")


def test_folder_of_another_name(tmp_path):
    miniatures.folder(tmp_path)
    (tmp_path / "photos").rename(tmp_path / "Bilder")
    with pytest.raises(DatasetNotFoundError, match="photos/<name>"):
        opened(Folder, tmp_path)
    assert len(opened(Folder, tmp_path, photos="Bilder")) == 3
    assert (
        len(
            opened(
                Folder,
                "/",
                photos=tmp_path / "Bilder",
                masks=tmp_path / "masks",
                classes=tmp_path / "classes.txt",
            )
        )
        == 3
    )


@pytest.mark.parametrize("name", ["photos/one.jpg", "masks/two.png"])
def test_folder_with_a_lonely_file(name, tmp_path):
    miniatures.folder(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"one\.png \(no photo\)|two \(no mask\)"):
        opened(Folder, tmp_path)


def test_folder_with_one_stem_twice(tmp_path):
    miniatures.folder(tmp_path)
    shutil.copy(tmp_path / "photos" / "one.jpg", tmp_path / "photos" / "one.JPEG")
    with pytest.raises(ValueError, match=r"one\.JPEG.*one\.jpg"):
        opened(Folder, tmp_path)


def test_folder_turns_photos_upright(tmp_path):
    miniatures.folder(tmp_path)
    photo = tmp_path / "photos" / "one.jpg"
    image = Image.open(photo).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held on its side: show it turned clockwise
    image.save(photo, exif=exif)
    item = opened(Folder, tmp_path)[0]
    assert tuple(item["photo"].shape[1:]) == tuple(item["mask"].shape) == (37, 23)
    Image.open(photo).save(photo)  # without the tag
    with pytest.raises(ValueError, match="turned after it was labelled"):
        opened(Folder, tmp_path)[0]


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (["background", "cat", "", "dog"], "line 3"),
        (["cat", "dog; CAT"], "'CAT' in line 2 is already in line 1"),
        (["background"], "1 to 255 classes"),
        ([f"c{i}" for i in range(256)], "1 to 255 classes"),
    ],
)
def test_folder_with_wrong_classes(lines, match, tmp_path):
    (tmp_path / "classes.txt").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=match):
        Folder(tmp_path)


def test_sixteen_bit_masks_are_refused(tmp_path):
    miniatures.folder(tmp_path)
    Image.fromarray(np.zeros((37, 23), np.uint16)).save(tmp_path / "masks" / "one.png")
    with pytest.raises(ValueError, match="I;16"):
        opened(Folder, tmp_path)[0]
