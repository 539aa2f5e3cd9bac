"""The Lightning shell of the CLIP-based methods."""

from __future__ import annotations

from typing import Literal

from ovss.benchmark import Benchmark
from ovss.dense_clip import DenseCLIP
from ovss.module import SegmentationModule
from ovss.proposals import Proposer
from ovss.refine import Refinement


class DenseCLIPModule(SegmentationModule):
    """A CLIP-based training-free method for the Trainer.

    Settings that are null are those of the method's reference for the benchmark (docs/methods.md).

    Args:
        name_or_path: CLIP: a hub id such as `openai/clip-vit-base-patch16`, or a local folder.
        method: how the last layer of its image encoder is changed.
        revision: branch, tag or commit on the hub.
        dino: ProxyCLIP's other model: a hub id such as `facebook/dino-vitb8`, or a local folder.
        dino_revision: branch, tag or commit on the hub.
        proposals: which classes to look for in a photo: `all`, `oracle`, or another kind.
        vocabulary: the classes' names: `natural`, `sclip`, `clearclip`, `proxyclip`, or a text file
            with a line for each class, synonyms separated by ";".
        residual: whether residual connections and MLP of the last layer stay.
        refine: what sharpens the logits along the photo's edges: `crf`, `pamr`, a refinement with
            settings of its own, or null; `default` is NACLIP's PAMR and none for the others.
        sigma: of NACLIP's neighbourhood, in patches.
        beta: ProxyCLIP: similarities below so many times their mean are left out.
        gamma: ProxyCLIP: what similarities are multiplied with.
        short_side: pixels of the input's shorter side.
        crop: pixels of a sliding window's side; 0 for the photo as a whole.
        stride: pixels from one window to the next.
        logit_scale: what cosines are multiplied with before the softmax over all names.
        prob_thd: pixels whose best class is less probable become background; 0..1.
        area_thd: classes with at most this share of what is not background are taken out; 0..1.
        benchmark: classes and scoring; default: the data module's.
        on_error: what unreadable photos do; see `SegmentationModule`.
    """

    segmenter: DenseCLIP

    def __init__(
        self,
        name_or_path: str,
        method: Literal["clip", "maskclip", "sclip", "clearclip", "naclip", "proxyclip"],
        revision: str | None = None,
        dino: str | None = None,
        dino_revision: str | None = None,
        proposals: str | Proposer = "all",
        vocabulary: str | None = None,
        residual: bool | None = None,
        refine: Refinement | Literal["default", "crf", "pamr"] | None = "default",
        sigma: float | None = None,
        beta: float | None = None,
        gamma: float | None = None,
        short_side: int | None = None,
        crop: int | None = None,
        stride: int | None = None,
        logit_scale: float | None = None,
        prob_thd: float | None = None,
        area_thd: float | None = None,
        benchmark: Benchmark | None = None,
        on_error: Literal["stop", "skip"] = "stop",
    ) -> None:
        segmenter = DenseCLIP.from_pretrained(
            name_or_path,
            method,
            revision,
            dino,
            dino_revision,
            proposals=proposals,
            vocabulary=vocabulary,
            residual=residual,
            refine=refine,
            sigma=sigma,
            beta=beta,
            gamma=gamma,
            short_side=short_side,
            crop=crop,
            stride=stride,
            logit_scale=logit_scale,
            prob_thd=prob_thd,
            area_thd=area_thd,
        )
        super().__init__(segmenter, benchmark, on_error)
