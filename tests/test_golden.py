"""Equality with what the released code computed (recorded in tests/data/golden)."""

import numpy as np
import pytest
import torch

from ovss.captions import Caption
from ovss.labelling import Labeller
from ovss.salience import SalienceDropout

DATASETS = ("voc", "psc", "ade20k", "coco_object", "coco_stuff")
IMAGES = range(4)
LAYER, HEAD = 4, 2  # the recorded "L5_H2": layers there count from 1


def caption_of(case):
    caption = Caption.of(case["classes"])
    assert caption.text == case["caption"]
    return caption


def has_background(dataset, classes):
    return dataset in ("voc", "coco_object") or classes < 3


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("image", IMAGES)
def test_tokens(golden, tiny_blip, dataset, image):
    case = golden.cases[dataset][image]
    tokens = tiny_blip.tokenize([caption_of(case)])
    assert tokens.input_ids[0].tolist() == case["enc_input_ids"]
    assert [len(group) for group in tokens.groups[0]] == case["tokens_per_class"]


@pytest.mark.parametrize("image", IMAGES)
def test_logits_and_gradcam_of_every_layer_and_head(golden, tiny_blip, image):
    outputs = golden["model_outputs"]
    caption = caption_of(golden.cases["voc"][image])
    seen = tiny_blip.gradcam_all(golden.pixels("voc", image), [caption])
    recorded = outputs[f"gradcam_img{image}"]
    np.testing.assert_allclose(seen.maps[:, :, 0].numpy(), recorded[:-1], atol=1e-5, rtol=0)
    assert not recorded[-1].any()  # the last layer, which `layers` leaves out
    assert float(seen.match_logit) == pytest.approx(outputs[f"itm_logits_img{image}"][1], abs=1e-5)


def test_gradcam_of_a_padded_batch(golden, tiny_blip):
    captions = [caption_of(case) for case in golden.cases["voc"]]
    pixels = torch.cat([golden.pixels("voc", image) for image in IMAGES])
    seen = tiny_blip.gradcam(pixels, captions, 7, 9)
    recorded = golden["model_outputs"]["batch_gradcam_l7_h9"]
    np.testing.assert_allclose(seen.maps.numpy(), recorded, atol=1e-5, rtol=0)
    logits = golden["model_outputs"]["batch_itm_logits"][:, 1]
    np.testing.assert_allclose(seen.match_logit.numpy(), logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("dataset", ["voc", "ade20k", "coco_object"])
def test_dropped_patches_and_round_maps(golden, tiny_blip, dataset, image):
    case, record = golden.cases[dataset][image], golden["dropout"]
    key = f"{dataset}_L5_H2_img{image}"
    rounds = SalienceDropout(variant="released").look(
        tiny_blip, golden.pixels(dataset, image), [caption_of(case)], LAYER, HEAD
    )
    for number in range(3):
        expected = set(record[f"{key}/dropped"][: number + 1, 0].ravel().tolist())
        dropped = rounds.dropped[number + 1, 0].flatten().nonzero()[:, 0]
        assert set(dropped.tolist()) == expected
    logits = record[f"{key}/itm_logits"][:, 0, 1]
    np.testing.assert_allclose(rounds.match_logit[0][:, 0].numpy(), logits, atol=1e-5, rtol=0)
    # `raw_gradcam` is before the drawing code scales COCO's maps in place.
    raw = (
        torch.from_numpy(record[f"{key}/raw_gradcam"][:, 0])
        * ~rounds.dropped[:, :1].squeeze(1)[:, None]
    )
    first = 3  # tokens "a", "picture", "of" come before the classes
    for k, count in enumerate(case["tokens_per_class"]):
        tokens = raw[:, first : first + count]
        last = k == len(case["classes"]) - 1
        expected = tokens.sum(1) if last else tokens.mean(1)
        torch.testing.assert_close(rounds.maps[0][:, k], expected, atol=1e-6, rtol=0)
        first += count


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("dataset", DATASETS)
def test_released_class_maps(golden, tiny_blip, dataset, image):
    maps = SalienceDropout(variant="released")(
        tiny_blip,
        golden.pixels(dataset, image),
        [caption_of(golden.cases[dataset][image])],
        LAYER,
        HEAD,
        rescale=dataset.startswith("coco"),
    )
    recorded = golden["class_maps"][f"{dataset}/img{image}/agg"]
    np.testing.assert_allclose(maps[0].numpy(), recorded, atol=1e-5, rtol=0)


@pytest.mark.parametrize("image", IMAGES)
def test_paper_class_maps_count_every_round_once_and_average_every_class(golden, tiny_blip, image):
    case = golden.cases["voc"][image]
    (maps,) = SalienceDropout()(
        tiny_blip, golden.pixels("voc", image), [caption_of(case)], LAYER, HEAD
    )
    tokens = torch.from_numpy(golden["dropout"][f"voc_L5_H2_img{image}/iter_maps"][:, 0]).sum(0)
    first = 3
    for k, count in enumerate(case["tokens_per_class"]):
        expected = tokens[first : first + count].mean(0)
        torch.testing.assert_close(maps[k], expected, atol=1e-5, rtol=0)
        first += count


@pytest.mark.parametrize("image", [1, 3])
@pytest.mark.parametrize("dataset", DATASETS)
def test_channels_before_the_blur(golden, dataset, image):
    maps = torch.from_numpy(golden["class_maps"][f"{dataset}/img{image}/agg"])
    channels = Labeller(blur=0, crf=None).channels(
        maps,
        golden.sizes[image],
        has_background(dataset, len(maps)),
        rescale=dataset.startswith("coco"),
    )
    recorded = golden["with_background"][f"{dataset}/th0.15/img{image}/agg_with_background"]
    np.testing.assert_allclose(channels.numpy(), recorded, atol=1e-6, rtol=0)


def released_ids(golden, dataset, case, labels, background):
    """The released code's remap from 1-based labels to ids, in place and so with collisions."""
    indices = np.array(case["best_class_idx"])
    coco = dataset.startswith("coco")
    ids = np.array(golden.coco_ids[dataset])[indices] if coco else indices + 1
    first = 1 if background else 0
    labels = labels if background else labels - 1
    labels = labels.astype(int).copy()
    for k in reversed(range(len(ids))):
        labels[labels == k + first] = ids[k]
    return labels


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("threshold", [0.15, 0.5])
@pytest.mark.parametrize(("name", "blur"), [("none", 0.0), ("blur", 0.05)])
@pytest.mark.parametrize("dataset", DATASETS)
def test_label_maps(golden, dataset, name, blur, threshold, image):
    case = golden.cases[dataset][image]
    maps = torch.from_numpy(golden["class_maps"][f"{dataset}/img{image}/agg"])
    background = has_background(dataset, len(maps))
    labeller = Labeller(threshold, blur, crf=None)
    rescale = dataset.startswith("coco")
    photo = torch.zeros(3, *golden.sizes[image], dtype=torch.uint8)
    labels = labeller(maps, photo, background, rescale).numpy()
    recorded = golden["label_maps"][f"{dataset}/th{threshold}/{name}/img{image}/agg"]
    differs = released_ids(golden, dataset, case, labels, background) != recorded
    # Where two channels are equal in exact arithmetic, rounding noise decides, there and here.
    channels = labeller.channels(maps, golden.sizes[image], background, rescale)
    if len(channels) > 1:
        best = channels.sort(0, descending=True).values
        tie = ((best[0] - best[1]) < 1e-5).numpy()
        differs &= ~tie
    assert differs.sum() == 0
