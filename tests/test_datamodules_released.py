"""The `released` protocol against what the released code loaded and scored (tests/data/golden)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ovss.datamodules.masks import to_labels
from PIL import Image

from ovss.datamodules import ADE20K, VOC, COCOObject, COCOStuff, PascalContext
from ovss.metrics import SegmentationScores, scores_of
from ovss.preprocessing import InputSpec

# pycocotools' compiled code does not know NumPy 2's `copy` keyword yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

GOLDEN = Path(__file__).parent / "data" / "golden"
METRICS = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))["metrics"]
TRUTH = np.load(GOLDEN / "ground_truth.npz")
MODULES = {
    "voc": VOC,
    "psc": PascalContext,
    "ade20k": ADE20K,
    "coco_object": COCOObject,
    "coco_stuff": COCOStuff,
}
SPEC = InputSpec(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NAMES = {
    "mIoU": "Mean IoU",
    "pixel_accuracy": "Pixel Accuracy",
    "mean_accuracy": "Mean Accuracy",
    "fw_IoU": "Frequency Weighted IoU",
}


def released(dataset, root="x"):
    return MODULES[dataset](root, protocol="released", limit=4, num_workers=0, spec=SPEC)


def ignoring(labels, classes):
    """The released code drops ground truth outside its bins; here such labels are 255."""
    return np.where(labels < classes, labels, 255).astype(np.uint8)


@pytest.mark.parametrize("dataset", ["voc", "psc", "coco_stuff"])
@pytest.mark.parametrize("image", range(4))
def test_ground_truth_from_pngs(dataset, image, tmp_path):
    data = released(dataset)
    if dataset == "coco_stuff":
        from ovss.datamodules.coco import stuff_tables

        table = stuff_tables("released")[0]
    else:
        table = data.labels
    labels = to_labels(TRUTH[f"{dataset}/img{image}/raw"], table, "it").mask
    recorded = TRUTH[f"{dataset}/img{image}/loaded"]
    assert np.array_equal(labels, ignoring(recorded, len(data.benchmark.classes)))


@pytest.mark.parametrize("image", range(4))
def test_ground_truth_of_ade20k(image, tmp_path):
    raw = TRUTH[f"ade20k/img{image}/raw"]
    folder = tmp_path / "ADEChallengeData2016"
    for name in ("images", "annotations"):
        (folder / name / "validation").mkdir(parents=True)
    Image.new("RGB", raw.shape[::-1]).save(folder / "images/validation/ADE_val_00000001.jpg")
    Image.fromarray(raw).save(folder / "annotations/validation/ADE_val_00000001.png")
    data = released("ade20k", tmp_path)
    data.setup()
    if raw.max() > 150:  # the released code drops it in silence
        with pytest.raises(ValueError, match=r"but got \[200\]"):
            data.dataset[0]
    else:
        recorded = TRUTH[f"ade20k/img{image}/loaded"]
        assert np.array_equal(data.dataset[0]["mask"].numpy(), recorded)


def test_ground_truth_from_instances(tmp_path):
    photos = tmp_path / "images" / "val2017"
    photos.mkdir(parents=True)
    content = (GOLDEN / "coco_instances_tiny.json").read_bytes()
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_bytes(content)
    for image in json.loads(content)["images"]:
        Image.new("RGB", (image["width"], image["height"])).save(photos / image["file_name"])
    data = released("coco_object", tmp_path)
    data.setup()
    for image in range(4):
        recorded = TRUTH[f"coco_object/img{image}/loaded"]
        assert np.array_equal(data.dataset[image]["mask"].numpy(), recorded)


def scores_of_photos(dataset, processing, images):
    benchmark = released(dataset).benchmark
    count = len(benchmark.classes)
    scores = SegmentationScores(count, benchmark.ignore_index, benchmark.protocol)
    labels = np.load(GOLDEN / "label_maps.npz")
    for image in images:
        truth = ignoring(TRUTH[f"{dataset}/img{image}/loaded"], count)
        # The recorded maps are scored as they are, the released code's chained renaming included.
        predicted = labels[f"{dataset}/th0.15/{processing}/img{image}/agg"]
        scores.update(torch.from_numpy(predicted), torch.from_numpy(truth))
    return scores


@pytest.mark.parametrize("dataset", MODULES)
@pytest.mark.parametrize("processing", ["none", "blur", "crf", "blur+crf"])
def test_histograms_and_scores(dataset, processing):
    prompts = released(dataset).benchmark.released_prompts
    names = [own[0] if own else label for label, own in enumerate(prompts)]
    for image in range(4):
        scores = scores_of_photos(dataset, processing, [image])
        recorded = np.load(GOLDEN / "hists.npz")[f"{dataset}/{processing}/img{image}/hist_coo"]
        rows, columns = scores.confusion.nonzero().T.tolist()
        counts = scores.confusion[rows, columns].tolist()
        assert sorted(zip(rows, columns, counts, strict=True)) == sorted(
            map(tuple, recorded.tolist())
        )
        check(scores.compute(), METRICS[f"{dataset}/{processing}/img{image}"], names)
    whole = scores_of_photos(dataset, processing, range(4))
    check(whole.compute(), METRICS[f"{dataset}/{processing}/dataset"], names)


def check(result, recorded, names=None):
    for ours, theirs in NAMES.items():
        assert float(result[ours]) == pytest.approx(recorded[theirs], abs=1e-12)
    # Keyed by name, as recorded: two of ADE20K's classes share one, and the later one stays.
    pairs = zip(result["IoU"], result["accuracy"], strict=True)
    ours = dict(zip(names or range(len(result["IoU"])), pairs, strict=True))
    recorded_ious = recorded["Class IoU"].values()
    for (iou, accuracy), theirs in zip(ours.values(), recorded_ious, strict=True):
        if accuracy.isnan():  # not in the ground truth: listed as 0 there if it was predicted
            assert iou.isnan()
            assert not theirs
        else:
            assert float(iou) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("name", ["random0", "random1", "random2", "tiny"])
def test_scores_of_random_labels(name):
    record = np.load(GOLDEN / "scores_random.npz")
    count = len(record[f"{name}/hist"])
    scores = SegmentationScores(count, protocol="released")
    truth = ignoring(record[f"{name}/label_true"], count)
    predicted = record[f"{name}/label_pred"].astype(np.uint8)
    scores.update(torch.from_numpy(predicted), torch.from_numpy(truth))
    assert np.array_equal(scores.confusion.numpy(), record[f"{name}/hist"])
    check(scores.compute(), METRICS[name])


def test_the_protocols_differ_in_what_they_average():
    """By hand: `b` is predicted once and never there."""
    matrix = torch.tensor([[3, 1, 0], [0, 0, 0], [1, 0, 5]])
    standard, paper = (scores_of(matrix, protocol)["mIoU"] for protocol in ("standard", "released"))
    assert float(standard) == pytest.approx((3 / 5 + 0 + 5 / 6) / 3)
    assert float(paper) == pytest.approx((3 / 5 + 5 / 6) / 2)


@pytest.mark.parametrize("protocol", ["standard", "released"])
def test_scores_against_numpy(protocol):
    """As mmsegmentation and the released code define them, from scratch, on random label maps."""
    rng = np.random.default_rng(3)
    classes = 9
    pairs = [
        (
            rng.integers(0, classes - 1, size).astype(np.uint8),
            rng.choice([0, 1, 2, 4, 5, 8, 255], size).astype(np.uint8),
        )
        for size in ((13, 7), (5, 21), (9, 9))
    ]
    scores = SegmentationScores(classes, protocol=protocol)
    for predicted, truth in pairs:
        scores.update(torch.from_numpy(predicted), torch.from_numpy(truth))
    predicted = np.concatenate([p[t != 255] for p, t in pairs])
    truth = np.concatenate([t[t != 255] for _, t in pairs])
    ious, accuracies, weighted = [], [], 0.0
    for k in range(classes):
        both = int(((predicted == k) & (truth == k)).sum())
        union = int(((predicted == k) | (truth == k)).sum())
        there = int((truth == k).sum())
        if union and (there or protocol == "standard"):
            ious.append(both / union)
        if there:
            accuracies.append(both / there)
            weighted += there / len(truth) * both / union
    result = scores.compute()
    assert float(result["mIoU"]) == pytest.approx(np.mean(ious), abs=1e-12)
    assert float(result["mean_accuracy"]) == pytest.approx(np.mean(accuracies), abs=1e-12)
    assert float(result["fw_IoU"]) == pytest.approx(weighted, abs=1e-12)
    assert float(result["pixel_accuracy"]) == pytest.approx((predicted == truth).mean(), abs=1e-12)
