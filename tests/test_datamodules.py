"""Every benchmark's reader on its official layout in miniature: exact labels, both protocols."""

import hashlib
import json
from importlib.resources import files
from pathlib import Path

import miniatures
import numpy as np
import pytest
import torch
from miniatures import COCO_GAPS, COCO_THINGS
from ovss.datamodules.specs import label_map, split_synonyms
from pycocotools.coco import COCO

from ovss.datamodules import (
    ADE20K,
    VOC,
    Cityscapes,
    COCOObject,
    COCOStuff,
    Folder,
    PascalContext,
)
from ovss.preprocessing import InputSpec

# pycocotools' compiled code does not know NumPy 2's `copy` keyword yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

GOLDEN = Path(__file__).parent / "data" / "golden"
SPEC = InputSpec(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CITYSCAPES_IDS = [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]
STUFF_IDS = [i for i in range(1, 183) if i not in COCO_GAPS]


def contiguous(values):
    """Values in order to 0, 1, 2, ..."""
    return {value: label for label, value in enumerate(values)}


PC60 = json.loads(
    (files("datamodules") / "data/maps/pascal_context_catid_to_pc60.json").read_text()
)
PC60 = {i: PC60.get(str(i), 0) for i in range(460)}

# (data module, arguments, writer of the tree, value in the file -> label)
CASES = {
    "voc21": (VOC, {}, miniatures.voc, {i: i for i in (*range(21), 255)}),
    "voc21 released": (
        VOC,
        {"protocol": "released"},
        miniatures.voc,
        {**{i: i for i in range(21)}, 255: 0},
    ),
    "voc20": (
        VOC,
        {"classes": "voc20"},
        miniatures.voc,
        {0: 255, 255: 255, **contiguous(range(1, 21))},
    ),
    "pc60 json": (PascalContext, {}, miniatures.pascal_context_json, PC60),
    "pc60 released": (
        PascalContext,
        {"protocol": "released"},
        miniatures.pascal_context_json,
        PC60,
    ),
    "pc59 json": (
        PascalContext,
        {"classes": "pc59"},
        miniatures.pascal_context_json,
        {i: label - 1 if label else 255 for i, label in PC60.items()},
    ),
    "pc60 png": (PascalContext, {}, miniatures.pascal_context_png, contiguous(range(60))),
    "pc59 png": (
        PascalContext,
        {"classes": "pc59"},
        miniatures.pascal_context_png,
        {0: 255, **contiguous(range(1, 60))},
    ),
    "ade150": (ADE20K, {}, miniatures.ade20k, {0: 255, **contiguous(range(1, 151))}),
    "ade150 released": (
        ADE20K,
        {"protocol": "released"},
        miniatures.ade20k,
        contiguous(range(151)),
    ),
    "coco_stuff171": (
        COCOStuff,
        {},
        miniatures.coco_stuff,
        {**contiguous(i - 1 for i in STUFF_IDS), 255: 255},
    ),
    "coco_stuff171 released": (
        COCOStuff,
        {"protocol": "released"},
        miniatures.coco_stuff,
        {**{i - 1: i for i in STUFF_IDS}, 255: 0},
    ),
    "coco_stuff171 converted": (
        COCOStuff,
        {},
        lambda root: miniatures.coco_converted(root, [*range(171), 255], "_labelTrainIds"),
        {i: i for i in (*range(171), 255)},
    ),
    "coco_stuff171 converted, released": (
        COCOStuff,
        {"protocol": "released"},
        lambda root: miniatures.coco_converted(root, [*range(171), 255], "_labelTrainIds"),
        {**dict(enumerate(STUFF_IDS)), 255: 0},
    ),
    "coco_object81": (
        COCOObject,
        {},
        miniatures.coco_stuff,
        {
            **dict.fromkeys(miniatures.STUFF_VALUES, 0),
            **{i - 1: n for n, i in enumerate(COCO_THINGS, start=1)},
        },
    ),
    "coco_object81 converted": (
        COCOObject,
        {},
        lambda root: miniatures.coco_converted(root, range(81), "_instanceTrainIds"),
        contiguous(range(81)),
    ),
    "coco_object81 from converted COCO-Stuff": (
        COCOObject,
        {},
        lambda root: miniatures.coco_converted(root, [*range(171), 255], "_labelTrainIds"),
        {**{i: i + 1 for i in range(80)}, **dict.fromkeys((*range(80, 171), 255), 0)},
    ),
    "cityscapes19": (
        Cityscapes,
        {},
        miniatures.cityscapes,
        {**dict.fromkeys(range(34), 255), **contiguous(CITYSCAPES_IDS)},
    ),
    "cityscapes19 converted": (
        Cityscapes,
        {},
        lambda root: miniatures.cityscapes(root, "labelTrainIds"),
        {i: i for i in (*range(19), 255)},
    ),
    "folder": (Folder, {}, miniatures.folder, {i: i for i in (0, 1, 2, 3, 255)}),
}


def items(module, root, **kwargs):
    """What the data module's loader gives, photo by photo."""
    data = module(root, limit=3, num_workers=0, batch_size=1, spec=SPEC, **kwargs)
    data.setup()
    return data, list(data.test_dataloader())


def check(data, batches, expected):
    """Every label of every photo, and the image-level labels."""
    assert [batch.ids[0] for batch in batches] == list(expected)
    seen = set()
    for batch in batches:
        mask = batch.masks[0]
        assert mask.dtype == torch.uint8
        assert np.array_equal(mask.numpy(), expected[batch.ids[0]])
        assert batch.photos[0].shape[1:] == mask.shape
        labels = set(np.unique(expected[batch.ids[0]]).tolist())
        named = [label for label, names in enumerate(data.benchmark.prompts) if names]
        assert batch.present[0] == tuple(label for label in named if label in labels)
        seen |= labels - {255}
    # Every class occurs in the miniature, so none of the mappings goes untried.
    assert seen >= {label for label, names in enumerate(data.benchmark.prompts) if names}
    assert max(seen) < len(data.benchmark.classes)


@pytest.mark.parametrize("case", CASES)
def test_labels(case, tmp_path):
    module, kwargs, write, table = CASES[case]
    truth = write(tmp_path)
    data, batches = items(module, tmp_path, **kwargs)
    check(data, batches, {i: np.vectorize(table.get)(values) for i, values in truth.items()})


@pytest.mark.parametrize("protocol", ["standard", "released"])
def test_coco_objects_from_instances(protocol, tmp_path):
    path = miniatures.coco_instances(tmp_path)
    coco = COCO(path)
    number = {i: i if protocol == "released" else n for n, i in enumerate(COCO_THINGS, start=1)}
    expected = {}
    for image in coco.loadImgs(sorted(coco.getImgIds())):
        painted = np.zeros((image["height"], image["width"]), np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"], iscrowd=None)):
            painted[(coco.annToMask(annotation) > 0) & (painted == 0)] = number[
                annotation["category_id"]
            ]
        expected[image["file_name"][:-4]] = painted
    data, batches = items(COCOObject, tmp_path, protocol=protocol, truth="instances")
    for batch in batches:
        assert np.array_equal(batch.masks[0].numpy(), expected[batch.ids[0]])
    assert len(batches) == 3
    if protocol == "standard":
        # Not the field's ground truth: a score must not go by the field's name.
        assert data.benchmark.key == "coco_object81_instances"
    else:
        assert len(data.benchmark.classes) == 91
        assert data.benchmark.classes[90] == "toothbrush"
        assert data.benchmark.classes[12] == "unused 12"


@pytest.mark.parametrize(
    ("photos", "masks"),
    [
        ("images/val2017", "annotations/val2017"),
        ("val2017", "val2017"),
        ("val2017", "stuffthingmaps/val2017"),
        ("coco_stuff164k/images/val2017", "coco_stuff164k/annotations/val2017"),
        ("coco/images/val2017", "coco/annotations/val2017"),
    ],
)
def test_coco_layouts(photos, masks, tmp_path):
    truth = miniatures.coco_stuff(tmp_path, photos, masks)
    data, batches = items(COCOStuff, tmp_path)
    assert [batch.ids[0] for batch in batches] == list(truth)
    assert f"{masks}/*.png" == data.dataset.split.source


def test_raw_coco_masks_beside_converted_ones(tmp_path):
    truth = miniatures.coco_stuff(tmp_path)
    miniatures.coco_converted(tmp_path, [*range(171), 255], "_labelTrainIds")
    _, batches = items(COCOObject, tmp_path)
    table = CASES["coco_object81"][3]
    for batch in batches:
        expected = np.vectorize(table.get)(truth[batch.ids[0]])
        assert np.array_equal(batch.masks[0].numpy(), expected)


@pytest.mark.parametrize(
    ("module", "write", "below"),
    [
        (PascalContext, miniatures.pascal_context_json, "VOCdevkit"),
        (PascalContext, miniatures.pascal_context_json, "VOCdevkit/VOC2010"),
        (ADE20K, miniatures.ade20k, "ADEChallengeData2016"),
    ],
)
def test_roots_further_down(module, write, below, tmp_path):
    truth = write(tmp_path)
    _, batches = items(module, tmp_path / below)
    assert [batch.ids[0] for batch in batches] == list(truth)


def test_two_workers_give_the_same(tmp_path):
    miniatures.pascal_context_json(tmp_path)
    _, alone = items(PascalContext, tmp_path)
    data = PascalContext(tmp_path, limit=3, num_workers=2, batch_size=1, spec=SPEC)
    data.setup()
    for one, other in zip(alone, data.test_dataloader(), strict=True):
        assert one.ids == other.ids
        assert torch.equal(one.masks[0], other.masks[0])
        assert torch.equal(one.pixel_values, other.pixel_values)


def test_annotations_are_flat_arrays_however_many_regions(tmp_path):
    """What travels to a worker must not grow by Python objects a region."""
    miniatures.coco_instances(tmp_path)
    data, _ = items(COCOObject, tmp_path, protocol="released")
    annotations = data.dataset.split.read_mask.__self__
    for name, value in vars(annotations).items():
        assert isinstance(value, np.ndarray) or name in ("rows", "wins")
    assert len(annotations.rows) == 3


# ---- specs ---------------------------------------------------------------------------------------

# SHA-256 of the class lists as the project was given them; a class list never changes.
CLASS_LISTS = {
    "ade150": "e1f882324e2b28eb3bf89be7c8e1c97b00f7d7f8b0e5a4bf758fd92def1ea8e4",
    "cityscapes19": "48cab81b30ea4ee4f3b07ee136cb7e52c71de093d7bf834211ce29269ddfb196",
    "coco_object81": "80701ae9381b4e718e0285f562e15dfa955a3df98ced2a8a3586fd245fe3368b",
    "coco_stuff171": "183abbcf67345584c8fd5fab2fe93e56ec77e25836483a185e991318398bd248",
    "pc59": "6a45bee9f3acb41f923ebd9474ba5bca699eff3e1b67fc790e4e530d35ac2253",
    "pc60": "c8278f9257ab2ed0d7499b99bd6c69485d15881768e26c64b01ee6cefad39eac",
    "voc20": "f14861775969fd006b382e005f96dc811ef062ea4a37356efb70d7775e90f743",
    "voc21": "5e0e0d1f1a439ba7736618a4c4453a0428eb3213da0a1dc5486c54c191f4c296",
}

ALL = {
    "voc21": (VOC, {}),
    "voc20": (VOC, {"classes": "voc20"}),
    "pc60": (PascalContext, {}),
    "pc59": (PascalContext, {"classes": "pc59"}),
    "ade150": (ADE20K, {}),
    "coco_object81": (COCOObject, {}),
    "coco_stuff171": (COCOStuff, {}),
    "cityscapes19": (Cityscapes, {}),
}
COUNTS = {
    "voc21": 1449,
    "voc20": 1449,
    "pc60": 5104,
    "pc59": 5104,
    "ade150": 2000,
    "coco_object81": 5000,
    "coco_stuff171": 5000,
    "cityscapes19": 500,
}


@pytest.mark.parametrize("key", ALL)
def test_specs(key):
    module, kwargs = ALL[key]
    benchmark = module("nowhere", **kwargs).benchmark
    assert benchmark.key == key
    assert benchmark.expected == COUNTS[key]
    assert benchmark.protocol == "standard"
    assert benchmark.ignore_index == 255
    text = (files("datamodules") / f"data/classes/{key}.txt").read_text()
    assert hashlib.sha256(text.encode()).hexdigest() == CLASS_LISTS[key]
    assert benchmark.classes == tuple(text.splitlines())
    palette = json.loads((files("datamodules") / f"data/palettes/{key}.json").read_text())
    assert [list(colour) for colour in benchmark.palette] == palette
    with_background = key in ("voc21", "pc60", "coco_object81")
    assert benchmark.background == (0 if with_background else None)
    assert (benchmark.classes[0] == "background") == with_background
    first = 1 if with_background else 0
    assert benchmark.searchable == tuple(range(first, len(benchmark.classes)))
    names = [name for names in benchmark.prompts for name in names]
    assert len({name.casefold() for name in names}) == len(names)


def test_background_rules():
    rules = {
        key: module("x", **kwargs).benchmark.background_rule
        for key, (module, kwargs) in ALL.items()
    }
    assert rules == {
        "voc21": "always",
        "voc20": "never",
        "pc60": "few",
        "pc59": "never",
        "ade150": "never",
        "coco_object81": "always",
        "coco_stuff171": "never",
        "cityscapes19": "never",
    }
    released = {
        module: module("x", protocol="released").benchmark
        for module in (VOC, PascalContext, ADE20K, COCOObject, COCOStuff)
    }
    assert [b.background_rule for b in released.values()] == [
        "always",
        "few",
        "few",
        "always",
        "few",
    ]
    assert [b.background for b in released.values()] == [0] * 5
    assert [len(b.classes) for b in released.values()] == [21, 60, 151, 91, 183]
    assert [b.rescale for b in released.values()] == [False, False, False, True, True]
    assert [b.normalise for b in released.values()] == [True, True, False, True, True]


@pytest.mark.parametrize(
    ("module", "kwargs", "match"),
    [
        (VOC, {"classes": "voc20", "protocol": "released"}, "use voc21"),
        (PascalContext, {"classes": "pc59", "protocol": "released"}, "use pc60"),
        (Cityscapes, {"protocol": "released"}, "does not have Cityscapes"),
        (COCOObject, {"protocol": "released", "truth": "stuff"}, "leave it out"),
        (VOC, {"classes": "voc"}, "'voc21' or 'voc20'"),
        (ADE20K, {"protocol": "mmseg"}, "'standard' or 'released'"),
        (COCOObject, {"truth": "masks"}, "'stuff' or 'instances'"),
    ],
)
def test_what_does_not_exist_is_refused(module, kwargs, match):
    with pytest.raises(ValueError, match=match):
        module("x", **kwargs)


def test_released_names_are_the_released_codes(golden):
    names = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))["names"]
    for dataset, module in {
        "voc": VOC,
        "psc": PascalContext,
        "ade20k": ADE20K,
        "coco_object": COCOObject,
        "coco_stuff": COCOStuff,
    }.items():
        for protocol in ("standard", "released"):
            prompts = module("x", protocol=protocol).benchmark.released_prompts
            assert [name for own in prompts for name in own] == names[dataset]
    for dataset, module in {"coco_object": COCOObject, "coco_stuff": COCOStuff}.items():
        prompts = module("x", protocol="released").benchmark.released_prompts
        ids = [label for label, own in enumerate(prompts) if own]
        assert ids == golden.coco_ids[dataset]


def test_maps_agree_with_each_other():
    """Three files say which ids COCO has; the class lists say what they are called."""
    stuff = label_map("coco_stuff164k_pixel_to_trainid")
    objects = label_map("coco_object_pixel_to_trainid")
    instances = label_map("coco_instance_catid_to_object81")
    assert [pixel + 1 for pixel in stuff if pixel != 255] == STUFF_IDS
    assert list(stuff) == list(objects)
    assert instances == {p + 1: label for p, label in objects.items() if label}
    assert {p: n + 1 for p, n in stuff.items() if n < 80} == {p: n for p, n in objects.items() if n}
    stuff_names = COCOStuff("x").benchmark.classes
    assert COCOObject("x").benchmark.classes[1:] == stuff_names[:80]
    assert VOC("x").benchmark.classes[1:] == VOC("x", "voc20").benchmark.classes
    assert PascalContext("x").benchmark.classes[1:] == PascalContext("x", "pc59").benchmark.classes
    assert sorted(label_map("pascal_context_catid_to_pc60").values()) == list(range(60))


# ---- prompts -------------------------------------------------------------------------------------


def test_default_prompts_are_natural_english():
    def names(module):
        return {names[0] for names in module("x").benchmark.prompts if names}

    assert {"potted plant", "television", "dining table"} <= names(VOC)
    assert {"traffic light", "brick wall", "playing field"} <= names(COCOStuff)
    for module in (VOC, PascalContext, ADE20K, COCOObject, COCOStuff, Cityscapes):
        assert not [name for name in names(module) if "-" in name or "other" in name]


def test_own_prompts(tmp_path):
    path = tmp_path / "Namen.txt"
    lines = [f"class {i}" for i in range(20)]
    lines[3] = " ship;  sailing   boat "
    for text in ("\n".join(lines), "\ufeffBackground\r\n" + "\r\n".join(lines) + "\r\n\r\n"):
        path.write_bytes(text.encode())
        benchmark = VOC("x", prompts=path).benchmark
        assert benchmark.prompts[:2] == ((), ("class 0",))
        assert benchmark.prompts[4] == ("ship", "sailing boat")
        assert benchmark.released_prompts == ()
    # Sparse labels have no lines for their gaps.
    path.write_text("\n".join(f"class {i}" for i in range(80)))
    benchmark = COCOObject("x", protocol="released", prompts=path).benchmark
    assert benchmark.prompts[11] == ("class 10",)
    assert benchmark.prompts[12] == ()
    assert benchmark.prompts[13] == ("class 11",)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda lines: lines[:19], r"names\.txt .* got 19 lines; line 20 should be tvmonitor"),
        (lambda lines: [*lines, "a", "b"], "got 22 lines; line 21 should be the end"),
        (lambda lines: [*lines[:4], "", *lines[5:]], r"'bottle' in .*names\.txt, line 5"),
        (lambda lines: [*lines[:4], "a;;b", *lines[5:]], "line 5"),
        (lambda lines: [*lines[:4], "CLASS 1", *lines[5:]], "'CLASS 1' in line 5 .* in line 2"),
    ],
)
def test_own_prompts_that_are_wrong(change, match, tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("\n".join(change([f"class {i}" for i in range(20)])))
    with pytest.raises(ValueError, match=match):
        VOC("x", classes="voc20", prompts=path)


def test_prompts_that_are_no_text(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.txt"):
        VOC("x", prompts=tmp_path / "nothing.txt")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(ValueError, match="UTF-8"):
        VOC("x", prompts=tmp_path / "latin.txt")


def test_split_synonyms():
    assert split_synonyms("a  b;c") == ("a b", "c")


# ---- documentation -------------------------------------------------------------------------------


def test_the_benchmark_that_the_documentation_adds(tmp_path):
    text = (Path(__file__).parents[1] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    blocks = [part.partition("```")[0] for part in text.split("```python\n")[1:]]
    names = {"miniatures": miniatures, "items": items, "check": check, "np": np, "root": tmp_path}
    for block in blocks:
        exec(compile(block, "docs/benchmarks.md", "exec"), names)
    assert len(names["batches"]) == 3


def test_the_documentation_names_every_benchmark():
    text = (Path(__file__).parents[1] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for key, (module, kwargs) in ALL.items():
        benchmark = module("x", **kwargs).benchmark
        assert f"| `{key}` | {benchmark.expected:,} | {len(benchmark.classes)} " in text
