"""The LightningModule with the VOC reader, on drawn scenes and a tiny random BLIP."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image
from torch.utils.data import DataLoader

from ovss.benchmark import PhotoBatch, of_classes
from ovss.datamodules import Scenes
from ovss.labelling import Labeller
from ovss.module import PnPOVSS
from ovss.pnp import PnP
from ovss.proposals import Proposal, Proposer
from ovss.salience import SalienceDropout

FAST = {"layer": 4, "head": 2, "dropout": SalienceDropout(rounds=2, patches=4)}


class Recorder(Callback):
    """Keeps what the steps return."""

    def __init__(self):
        self.predictions = {}

    def on_test_batch_end(self, trainer, module, outputs, batch, *args):
        predictions = outputs["predictions"] if isinstance(outputs, dict) else outputs
        self.predictions.update({p.id: p for p in predictions})


class NoClasses(Proposer):
    name = "none"

    def __call__(self, batch, benchmark, vlm):
        return [Proposal((), ()) for _ in batch.ids]


def trainer(tmp_path, **kwargs):
    return Trainer(
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **kwargs,
    )


def run_test(tmp_path, model, root, **data):
    recorder = Recorder()
    datamodule = Scenes(root, num_workers=0, **data)
    trainer(tmp_path, callbacks=[recorder]).test(model, datamodule=datamodule, verbose=False)
    return recorder.predictions


def test_nothing_to_train(tiny_blip):
    model = PnPOVSS(tiny_blip, **FAST)
    assert [p for p in model.parameters() if p.requires_grad] == []


def test_test_and_predict_agree_and_scores_are_numpys(tmp_path, tiny_blip, scenes_root):
    model = PnPOVSS(tiny_blip, **FAST)
    tested = run_test(tmp_path, model, scenes_root, batch_size=3)
    scores = {name: value.clone() for name, value in model.results.items()}
    predicted = trainer(tmp_path).predict(
        model, datamodule=Scenes(scenes_root, num_workers=0, batch_size=3)
    )
    by_id = {p.id: p for batch in predicted for p in batch}
    assert list(by_id) == list(tested)
    confusion = np.zeros((13, 13), int)
    folder = scenes_root / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    for photo_id, prediction in by_id.items():
        assert torch.equal(prediction.labels, tested[photo_id].labels)
        mask = np.asarray(Image.open(folder / f"{photo_id}.png"))
        assert prediction.labels.shape == mask.shape
        np.add.at(confusion, (mask.ravel(), prediction.labels.numpy().ravel()), 1)
    hits, union = confusion.diagonal(), confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    expected = (hits[union > 0] / union[union > 0]).mean()
    assert float(scores["mIoU"]) == pytest.approx(expected, rel=1e-12)
    assert int(scores["photos"]) == len(by_id) == 8
    for name, value in model.results.items():  # predict scores too, from zero again
        torch.testing.assert_close(value, scores[name], rtol=0, atol=0, equal_nan=True)


def test_label_maps_do_not_depend_on_the_batch(tmp_path, tiny_blip, scenes_root):
    model = PnPOVSS(tiny_blip, **FAST)
    alone = run_test(tmp_path, model, scenes_root, batch_size=1)
    together = run_test(tmp_path, model, scenes_root, batch_size=4)
    for photo_id, prediction in alone.items():
        assert torch.equal(prediction.labels, together[photo_id].labels), photo_id


def test_labels_are_among_the_proposed_ones(tmp_path, tiny_blip, scenes_root):
    predictions = run_test(tmp_path, PnPOVSS(tiny_blip, **FAST), scenes_root, limit=4)
    for prediction in predictions.values():
        assert set(prediction.labels.unique().tolist()) <= {0, *prediction.proposal.labels}


def test_all_classes(tmp_path, tiny_blip, scenes_root):
    model = PnPOVSS(tiny_blip, **FAST, proposals="all")
    predictions = run_test(tmp_path, model, scenes_root, limit=2)
    assert all(p.proposal.labels == tuple(range(1, 13)) for p in predictions.values())


def test_limit_is_what_the_scores_say(tmp_path, tiny_blip, scenes_root):
    model = PnPOVSS(tiny_blip, **FAST)
    run_test(tmp_path, model, scenes_root, limit=3)
    assert int(model.results["photos"]) == 3


def batch_of(vlm, sizes=((20, 30),), present=None):
    return PhotoBatch(
        ids=[str(i) for i in range(len(sizes))],
        photos=[torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes],
        pixel_values=torch.randn(len(sizes), 3, vlm.image_size, vlm.image_size),
        present=present,
    )


def test_a_photo_without_proposed_class_is_background(tiny_blip):
    model = PnPOVSS(tiny_blip, **FAST, proposals=NoClasses(), benchmark=of_classes(["cat", "dog"]))
    (prediction,) = model(batch_of(tiny_blip))
    assert prediction.labels.shape == (20, 30)
    assert prediction.labels.unique().tolist() == [0]


def test_or_of_the_best_matching_class_where_there_is_no_background(tiny_blip):
    benchmark = of_classes(["cat", "dog", "person"], background=False)
    model = PnPOVSS(tiny_blip, **FAST, proposals=NoClasses(), benchmark=benchmark)
    batch = batch_of(tiny_blip)
    (prediction,) = model(batch)
    features = tiny_blip.encode_image(batch.pixel_values)
    logits = [tiny_blip.match(features, tiny_blip.captions([n]))[0, 1] for n in benchmark.classes]
    assert prediction.labels.unique().tolist() == [int(torch.stack(logits).argmax())]


def test_a_mixed_batch_and_photos_one_pixel_high(tiny_blip):
    model = PnPOVSS(tiny_blip, **FAST, benchmark=of_classes(["cat", "dog"]))
    sizes = ((1, 40), (33, 1), (1, 1), (20, 30))
    predictions = model(batch_of(tiny_blip, sizes, present=[(1,), (1, 2), (2,), ()]))
    assert [tuple(p.labels.shape) for p in predictions] == list(sizes)
    assert predictions[3].labels.unique().tolist() == [0]


def test_synonyms_compete_for_their_class(tiny_blip):
    benchmark = of_classes(["cat; kitten", "dog"])
    model = PnPOVSS(
        tiny_blip, **FAST, labeller=Labeller(refine=None), proposals="all", benchmark=benchmark
    )
    batch = batch_of(tiny_blip)
    proposals = [Proposal((1, 2), (1.0, 1.0))]
    maps = model.segmenter.rounds(batch.pixel_values, benchmark, proposals)[0]
    caption = tiny_blip.captions(["cat", "kitten", "dog"])
    dropout = model.segmenter.dropout
    rounds = dropout.gradcam_rounds(tiny_blip, batch.pixel_values, [caption], 4, 2).maps[0]
    cat = torch.maximum(rounds[:, 0], rounds[:, 1])
    torch.testing.assert_close(maps, torch.stack([cat, rounds[:, 2]], 1), rtol=0, atol=0)


def test_released_variant_joins_words_and_feeds_plain_pixels(tiny_blip):
    model = PnPOVSS(tiny_blip, **FAST, variant="released", benchmark=of_classes(["potted plant"]))
    assert model.segmenter.names_of(1, model.benchmark) == ("pottedplant",)
    assert model.segmenter.dropout.variant == "released"
    plain = replace(model.benchmark, normalise=False)
    assert model.input_spec(plain).std == (1.0, 1.0, 1.0)
    assert model.input_spec(plain).interpolation == "bilinear"
    assert model.input_spec(model.benchmark).std == tiny_blip.statistics.std
    paper = PnPOVSS(tiny_blip, **FAST, benchmark=plain)
    assert paper.input_spec(plain).std == tiny_blip.statistics.std


def test_oracle_needs_ground_truth(tiny_blip):
    model = PnPOVSS(tiny_blip, **FAST, benchmark=of_classes(["cat"]))
    with pytest.raises(ValueError, match="proposals: oracle"):
        model(batch_of(tiny_blip))


def test_the_last_layer_is_refused_at_once(tiny_blip):
    with pytest.raises(ValueError, match="always zero"):
        PnPOVSS(tiny_blip, layer=11)


def test_the_variant_is_given_once(tiny_blip):
    with pytest.raises(ValueError, match=r"`dropout\.variant` to be that of the method"):
        PnPOVSS(tiny_blip, 4, 2, dropout=SalienceDropout(variant="released"))
    both = PnPOVSS(tiny_blip, 4, 2, SalienceDropout(variant="released"), variant="released")
    assert both.segmenter.dropout.variant == "released"


def test_the_core_is_frozen_and_in_eval_mode(tiny_blip):
    tiny_blip.train()
    segmenter = PnP(tiny_blip, 4, 2)
    assert not any(module.training for module in segmenter.modules())
    assert not any(parameter.requires_grad for parameter in segmenter.parameters())


def test_each_data_module_brings_its_benchmark_unless_one_was_given(tiny_blip):
    first, second = (SimpleNamespace(benchmark=of_classes([name])) for name in ("cat", "dog"))
    module = PnPOVSS(tiny_blip, **FAST)
    for datamodule in (first, second):
        module.take_benchmark(datamodule)
        assert module.benchmark is datamodule.benchmark
    own = PnPOVSS(tiny_blip, **FAST, benchmark=first.benchmark)
    own.take_benchmark(second)
    assert own.benchmark is first.benchmark


def test_a_benchmark_is_asked_for(tiny_blip):
    with pytest.raises(RuntimeError, match="of_classes"):
        _ = PnPOVSS(tiny_blip, **FAST).benchmark


BENCHMARK = of_classes(["cat", "dog", "person"])


def loader_of(batch):
    """A loader of one's own with one batch."""
    return DataLoader([batch], batch_size=None, collate_fn=lambda batch: batch)


def own_batch(vlm, present=None):
    """Two photos of a loader of one's own, with classes 1 and 3 in the second's mask."""
    batch = batch_of(vlm, ((20, 30), (10, 12)), present)
    second = torch.tensor([0, 1, 3, 255], dtype=torch.uint8).repeat(10, 3)
    return batch._replace(masks=[torch.zeros(20, 30, dtype=torch.uint8), second])


def test_what_is_present_is_read_off_the_masks(tmp_path, tiny_blip):
    """Of photos whose batches do not say it; before, they were left out of the scores."""
    results = []
    for present in (None, [(), (1, 3)]):
        torch.manual_seed(0)
        recorder = Recorder()
        module = PnPOVSS(tiny_blip, **FAST, benchmark=BENCHMARK)
        (logged,) = trainer(tmp_path, callbacks=[recorder]).test(
            module, dataloaders=loader_of(own_batch(tiny_blip, present)), verbose=False
        )
        assert [p.proposal.labels for p in recorder.predictions.values()] == [(), (1, 3)]
        assert int(module.results["photos"]) == 2
        results.append(logged)
    assert results[0] == results[1]
    assert results[0]["mIoU"] > 0


@pytest.mark.parametrize(
    ("batch", "kind"),
    [
        (
            {"image": torch.zeros(1, 3, 4, 4), "mask": torch.zeros(1, 4, 4)},
            "a dict of 'image', 'mask'",
        ),
        ([torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4)], "a list of Tensor, Tensor"),
        (torch.zeros(1, 3, 4, 4), "Tensor;"),
    ],
)
@pytest.mark.parametrize("command", ["test", "predict"])
def test_batches_of_another_form_are_refused(tmp_path, tiny_blip, batch, kind, command):
    module = PnPOVSS(tiny_blip, **FAST, benchmark=BENCHMARK)
    with pytest.raises(ValueError, match=f"PhotoBatch, but got {kind}.*from_dataset"):
        getattr(trainer(tmp_path), command)(module, dataloaders=loader_of(batch))


@pytest.mark.parametrize("command", ["test", "predict"])
def test_several_loaders_are_refused(tmp_path, tiny_blip, command):
    module = PnPOVSS(tiny_blip, **FAST, benchmark=BENCHMARK)
    loaders = [loader_of(own_batch(tiny_blip)) for _ in range(2)]
    with pytest.raises(ValueError, match="one loader, but got 2"):
        getattr(trainer(tmp_path), command)(module, dataloaders=loaders)
    assert module.results is None


def test_classes_that_share_a_name_share_its_map(tiny_blip):
    """The released code calls ADE20K's "screen" and "screen door" the same."""
    names = ((), ("screen",), ("person",), ("screen",))
    benchmark = replace(
        of_classes(["screen door", "person", "screen"]), prompts=names, released_prompts=names
    )
    pixels, proposals = batch_of(tiny_blip).pixel_values, [Proposal((1, 2, 3), (1.0,) * 3)]
    found = {}
    for variant in ("paper", "released"):
        model = PnPOVSS(tiny_blip, **FAST, variant=variant, proposals="all", benchmark=benchmark)
        (found[variant],) = model.segmenter.rounds(pixels, benchmark, proposals)
        assert found[variant].shape[1] == 3
        assert not torch.equal(found[variant][:, 0], found[variant][:, 1])
    assert torch.equal(found["paper"][:, 0], found["paper"][:, 2])
    # There it stands in the caption twice.
    assert not torch.equal(found["released"][:, 0], found["released"][:, 2])


def test_proposals_are_kept_for_runs_beside(tmp_path, tiny_blip, scenes_root, monkeypatch):
    from ovss.callbacks import RunFolder

    def run(name, threshold):
        model = PnPOVSS(tiny_blip, **FAST, labeller=Labeller(threshold), proposals="itm")
        datamodule = Scenes(scenes_root, num_workers=0, limit=2)
        trainer(tmp_path, callbacks=[RunFolder(tmp_path / name)]).test(
            model, datamodule=datamodule, verbose=False
        )

    run("first", 0.15)
    monkeypatch.setattr(
        "ovss.proposals.matching.MatchProposer.__call__",
        lambda *_: pytest.fail("the proposals were made again"),
    )
    run("second", 0.3)
    assert list((tmp_path / "proposals").iterdir())


def test_a_class_of_ones_own_is_named_once():
    with pytest.raises(ValueError, match="'sun' occurs twice"):
        of_classes(["sun", "tree", "sun"])
