"""CLIP-based methods whole: windows -> patch features x text features -> label maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from ovss.batch_size import MOST, batch_on_cpu
from ovss.benchmark import Benchmark, PhotoBatch
from ovss.demo import CLIP_CHECKPOINT
from ovss.dense_clip.image import ImageEncoder
from ovss.dense_clip.inference import (
    CHANGES,
    DEFAULTS,
    OPTIONS,
    Inference,
    check_overrides,
    inference_of,
)
from ovss.dense_clip.labelling import PhotoLogits, WholeLogits, label_map
from ovss.dense_clip.methods import METHODS
from ovss.dense_clip.text import TextEncoder
from ovss.dense_clip.vocabulary import Queries, queries_of, read_vocabulary
from ovss.dense_clip.windows import Axis, Windows, by_shape, in_parts
from ovss.maps import LONGEST_SIDE, bounded, enlarge_labels, full_float32, shared_shrunk
from ovss.preprocessing import InputSpec
from ovss.proposals import Proposal, Proposer
from ovss.refine import Refinement, resolve
from ovss.segmenter import Segmenter
from ovss.sharing import shared
from ovss.vlm.identity import built_from
from ovss.vlm.loading import checkpoint_name, load_checkpoint, load_model

MEAN = (122.771 / 255, 116.746 / 255, 104.094 / 255)
STD = (68.501 / 255, 66.632 / 255, 70.323 / 255)
"""The references' pixel statistics: CLIP's, rounded in 0..255."""

DINO_EPS = 1e-6
"""DINO's own; checkpoints on the hub were converted with transformers' default of 1e-12."""

TOKENS_ON_CPU, TOKENS_ON_GPU = 1600, 32768
"""Patches that the image encoders see at once, at least one window's: of 224 pixels 8 and 166. A
CPU gains nothing from more."""


class DenseCLIP(Segmenter):
    """Training-free segmentation with CLIP: vanilla, MaskCLIP, SCLIP, ClearCLIP, NACLIP, ProxyCLIP.

    A photo's patches are compared with the text features of all class names. Settings that are not
    given are those of the method's reference for the benchmark (`ovss.dense_clip.inference`).

    Args:
        clip: a `transformers.CLIPModel`.
        tokenizer: its tokenizer.
        method: a key of `ovss.dense_clip.METHODS`.
        dino: ProxyCLIP's other model, a `transformers.ViTModel` such as DINO.
        name: of the weights, for reports.
        proposals: which classes to look for in a photo; the background is always looked for.
        vocabulary: the classes' names: `natural`, `sclip`, `clearclip`, `proxyclip` or a text file;
            see `ovss.dense_clip.queries_of`. Default: the method's reference's.
        residual: whether residual connections and MLP of the last layer stay; default: as the
            method has it. MaskCLIP without is the reduced form of the ClearCLIP repository.
        refine: what sharpens the logits of all names along the photo's edges: `crf`, `pamr`, a
            refinement with settings of its own, or None; `default` is NACLIP's PAMR and none for
            the others. PAMR is guided by the input, resized to the photo.
        options: the method's own (`sigma` of NACLIP in patches, `beta` and `gamma` of ProxyCLIP)
            and settings of `Inference`; None for the default.

    Raises:
        ValueError: an unknown method, a model or a setting that does not fit.
    """

    variable: ClassVar[Mapping[str, str]] = {
        name: name for name in ("vocabulary", "refine", "logit_scale", "prob_thd", "area_thd")
    }

    def __init__(
        self,
        clip: Any,
        tokenizer: Any,
        method: str,
        dino: Any = None,
        name: str = "clip",
        proposals: str | Proposer = "all",
        vocabulary: str | None = None,
        residual: bool | None = None,
        refine: Refinement | Literal["default", "crf", "pamr"] | None = "default",
        **options: Any,
    ) -> None:
        super().__init__(proposals)
        if method not in METHODS:
            raise ValueError(f"Expected `method` to be one of {list(METHODS)}, but got {method!r}.")
        if not (hasattr(clip, "visual_projection") and hasattr(clip, "text_projection")):
            raise ValueError(
                f"Expected a CLIPModel with both projections, but got {type(clip).__name__}; load "
                "the checkpoint with transformers.CLIPModel."
            )
        if (dino is not None) != (method == "proxyclip"):
            raise ValueError(
                "Expected `dino` for ProxyCLIP and for no other method, but got "
                f"{'none' if dino is None else type(dino).__name__} for {method}."
            )
        self.method = method
        self.model = name
        self.row = METHODS[method]
        self.vocabulary = read_vocabulary(vocabulary or self.row.vocabulary)
        own, self._overrides = _split_options(options, method)
        self.image = ImageEncoder(clip, method, residual, dino, **own)
        self.text = TextEncoder(clip, tokenizer)
        self.label = LabelMap(self._refinement(refine))
        self._built_from = built_from(clip, tokenizer, dino)
        self._method_options = {**self.row.options, **own}
        check_overrides(self._overrides, self.image.patch)
        self.eval().requires_grad_(False)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        method: str,
        revision: str | None = None,
        dino: str | Path | None = None,
        dino_revision: str | None = None,
        **kwargs: Any,
    ) -> DenseCLIP:
        """Load CLIP, and DINO for ProxyCLIP, from the hub or local folders.

        Args:
            name_or_path: hub id such as `openai/clip-vit-base-patch16`, a local folder, or `demo`
                for the tiny CLIP that ships with the package.
            method: see the class, as for `kwargs`.
            revision: branch, tag or commit on the hub.
            dino: hub id such as `facebook/dino-vitb8`, or a local folder.
            dino_revision: branch, tag or commit on the hub.
            kwargs: see the class.

        Raises:
            FileNotFoundError: no such folder or model, or files missing.
            ValueError: another architecture, damaged or missing weights, or see the class.
        """
        from transformers import CLIPModel, ViTModel

        advice = "It needs both projections: take a CLIPModel, not one of its halves."
        name, other = checkpoint_name(name_or_path, revision), None
        if str(name_or_path) == "demo":
            name_or_path = CLIP_CHECKPOINT
        clip, tokenizer = load_checkpoint(
            {"clip": CLIPModel}, name_or_path, revision, option="--model.name_or_path",
            advice=advice,
        )  # fmt: skip
        if dino is not None:
            other = load_model(
                {"vit": ViTModel}, dino, dino_revision, option="--model.dino",
                add_pooling_layer=False,
            )  # fmt: skip
            for module in other.modules():
                if isinstance(module, nn.LayerNorm):
                    module.eps = DINO_EPS
            name = f"{name} + {checkpoint_name(dino, dino_revision)}"
        return cls(clip, tokenizer, method, other, name, **kwargs)

    # ---- what a Segmenter serves -----------------------------------------------------------------

    def inference(self, benchmark: Benchmark) -> Inference:
        """The settings for a benchmark.

        Raises:
            ValueError: see `inference_of`.
        """
        return inference_of(self.row.settings, benchmark, **self._overrides)

    def input_spec(self, benchmark: Benchmark) -> InputSpec:
        """See `Segmenter.input_spec`."""
        self.queries(benchmark)  # what cannot be is said before photos are read
        short = self.inference(benchmark).short_side
        return InputSpec(short, MEAN, STD, interpolation="bilinear", resize="short_side")

    def settings(self) -> dict[str, Any]:
        """See `Segmenter.settings`."""
        refinement = self.label.refinement
        return {
            **super().settings(),
            "checkpoint": self.model,
            "built_from": self._built_from,
            "residual": self.image.residual,
            **self._method_options,
            "refine": None if refinement is None else refinement.settings(),
            "vocabulary": self.vocabulary,
            "inference": {**asdict(DEFAULTS[self.row.settings]), **self._overrides},
            "by_benchmark": {
                key: {name: value for name, value in own.items() if name not in self._overrides}
                for key, own in CHANGES[self.row.settings].items()
            },
        }

    def varied(self, **settings: Any) -> DenseCLIP:
        """See `Segmenter.varied`."""
        other = super().varied(**settings)
        if "vocabulary" in settings:
            other.vocabulary = read_vocabulary(settings.pop("vocabulary") or self.row.vocabulary)
        if "refine" in settings:
            other.label = LabelMap(self._refinement(settings.pop("refine")))
        given = {name: value for name, value in settings.items() if value is not None}
        kept = {name: own for name, own in self._overrides.items() if name not in settings}
        other._overrides = {**kept, **given}
        check_overrides(other._overrides, self.image.patch)
        return other

    def _refinement(self, refine: Refinement | str | None) -> Refinement | None:
        return resolve(self.row.refine if refine == "default" else refine)

    def prepare(self, benchmark: Benchmark) -> None:
        """See `Segmenter.prepare`: the features of all names."""
        self.text.features(self.queries(benchmark).names)

    def keep_in(self, folder: Path) -> None:
        """See `Segmenter.keep_in`: the features of names."""
        self.text.keep_in(folder)

    def fitting_batch(self, device: torch.device) -> int:
        """See `Segmenter.fitting_batch`; windows are seen in parts that fit, whatever the batch."""
        return batch_on_cpu(self) if device.type == "cpu" else MOST

    def stages(self) -> dict[str, nn.Module]:
        """See `Segmenter.stages`."""
        return {"image": self.image, "text": self.text, "label": self.label}

    def forward(
        self, batch: PhotoBatch, benchmark: Benchmark, proposals: Sequence[Proposal]
    ) -> list[Tensor]:
        """See `Segmenter.forward`.

        A photo without proposed classes is all background or, where the benchmark has none, all of
        the class that its patches are most like on average.
        """
        queries, settings = self.queries(benchmark), self.inference(benchmark)
        features = self.text.features(queries.names)
        windows = [self.windows(pixels, settings) for pixels in batch.pixel_values]
        patches = self.patch_logits(batch.pixel_values, windows, features)
        found = []
        for photo, pixels, own, cut, proposal in zip(
            batch.photos, batch.pixel_values, patches, windows, proposals, strict=True
        ):
            size = (photo.shape[-2], photo.shape[-1])
            labels = proposal.labels or self._without_proposal(own, queries, benchmark)
            kept = [
                row
                for row, label in enumerate(queries.labels)
                if label in labels or label == benchmark.background
            ]
            logits = self.photo_logits(own[kept], cut, bounded(size, LONGEST_SIDE), settings)
            rows = [queries.labels[row] for row in kept]
            found.append(enlarge_labels(self.label(logits, rows, settings, photo, pixels), size))
        return found

    def names(self, benchmark: Benchmark) -> tuple[tuple[str, ...], ...]:
        """See `Segmenter.names`; the background has some, too."""
        return self.queries(benchmark).by_label(len(benchmark.classes))

    def queries(self, benchmark: Benchmark) -> Queries:
        """The names of all classes, the background's among them; see `queries_of`."""
        return queries_of(benchmark, self.vocabulary)

    # ---- from windows to logits ------------------------------------------------------------------

    def windows(self, pixels: Tensor, settings: Inference) -> Windows:
        """The windows of an input `(3, h, w)`."""
        patch, pad = self.image.patch, self.row.pad
        multiple = patch if pad == "patch" else int(pad or 1)
        rows, columns = (
            Axis.of(size, settings.crop, settings.stride, multiple, patch)
            for size in pixels.shape[-2:]
        )
        return Windows(rows, columns)

    def patch_logits(
        self, pixels: Sequence[Tensor] | Tensor, windows: Sequence[Windows], features: Tensor
    ) -> list[Tensor]:
        """For each photo `(Q, h, w)`: cosines of the patches of all its windows, side by side.

        Windows of one size go through the image encoder together, whichever photos they are of.

        Args:
            pixels: inputs `(3, h_i, w_i)`.
            windows: of each photo.
            features: of the Q queries, `(Q, E)`.
        """
        cosines: list[list[Tensor]] = [[] for _ in windows]
        parts = shared().once(
            lambda: self._unit_features(pixels, windows),
            "image", self.image, *pixels, *windows, cost=len(windows),
        )  # fmt: skip
        for owners, per_window, unit in parts:
            with torch.autocast(features.device.type, enabled=False), full_float32():
                similar = unit @ features.T
            for photo, each in zip(owners, similar.unflatten(1, per_window), strict=True):
                cosines[photo].append(each)
        return [
            own.side_by_side(torch.stack(each)) for own, each in zip(windows, cosines, strict=True)
        ]

    def _unit_features(
        self, pixels: Sequence[Tensor] | Tensor, windows: Sequence[Windows]
    ) -> Iterator[tuple[list[int], tuple[int, int], Tensor]]:
        """Stacks of windows: the photo of each, their grid, and `(B, N, E)` of unit length."""
        for shape, photos in by_shape(windows).items():
            per_window = self.image.grid(*shape)
            tokens = TOKENS_ON_CPU if pixels[0].device.type == "cpu" else TOKENS_ON_GPU
            step = max(1, tokens // (per_window[0] * per_window[1]))
            cut = ((photo, each) for photo in photos for each in windows[photo].cut(pixels[photo]))
            for owners, part in in_parts(cut, step):
                dense = self.image(part)
                with torch.autocast(part.device.type, enabled=False), full_float32():
                    unit = normalize(dense.float(), dim=-1)
                yield owners, per_window, unit

    def photo_logits(
        self, patches: Tensor, windows: Windows, size: tuple[int, int], settings: Inference
    ) -> PhotoLogits:
        """Cosines of a photo of that size; see `patch_logits`."""
        grid = self.image.grid(*windows.shape)
        via_input = settings.crop > 0 or self.row.via_input
        rows, columns = (
            axis.matrix(count, target, via_input, patches.device)
            for axis, count, target in zip((windows.rows, windows.columns), grid, size, strict=True)
        )
        return PhotoLogits(patches, rows, columns)

    def _without_proposal(
        self, patches: Tensor, queries: Queries, benchmark: Benchmark
    ) -> tuple[int, ...]:
        if benchmark.background is not None:
            return ()
        return (queries.labels[int(patches.mean((1, 2)).argmax())],)


class LabelMap(nn.Module):
    """Logits -> label map, refined on the way.

    Args:
        refinement: what sharpens the logits along the photo's edges.
    """

    def __init__(self, refinement: Refinement | None = None) -> None:
        super().__init__()
        self.refinement = refinement

    def forward(
        self,
        logits: PhotoLogits,
        labels: Sequence[int],
        settings: Inference,
        photo: Tensor,
        pixels: Tensor,
    ) -> Tensor:
        """See `label_map`.

        Args:
            logits: of Q queries.
            labels: of the queries.
            settings: scale and thresholds.
            photo: `(3, H, W)` uint8.
            pixels: the input `(3, h, w)`.
        """
        scale, prob_thd, area_thd = settings.logit_scale, settings.prob_thd, settings.area_thd
        if self.refinement is None or len(labels) == 1:
            return label_map(logits, labels, scale, prob_thd, area_thd)
        values = logits[slice(None)]
        size = (values.shape[1], values.shape[2])
        guide = interpolate(pixels[None].float(), size, mode="bilinear")[0]
        if photo.shape[1:] != size:
            photo = shared_shrunk(photo, size)
        (shares,) = self.refinement.probabilities([scale * values], [photo], [guide])
        # Their logarithms have them as softmax.
        refined = WholeLogits(shares.clamp(min=torch.finfo(shares.dtype).tiny).log())
        return label_map(refined, labels, 1.0, prob_thd, area_thd)


def _split_options(options: dict[str, Any], method: str) -> tuple[dict[str, float], dict[str, Any]]:
    """A method's own options, and settings in place of its reference's."""
    given = {name: value for name, value in options.items() if value is not None}
    known = (*METHODS[method].options, *OPTIONS)
    wrong = [name for name in given if name not in known]
    if wrong:
        raise ValueError(
            f"Expected options of {method} ({', '.join(known)}), but got {', '.join(wrong)}."
        )
    own = {name: float(given[name]) for name in METHODS[method].options if name in given}
    for name, value in own.items():
        if not value > 0:
            raise ValueError(f"Expected `{name}` to be positive, but got {value}.")
    return own, {name: value for name, value in given.items() if name in OPTIONS}
