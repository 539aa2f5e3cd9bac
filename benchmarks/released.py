"""The pipeline as the released code runs it, written anew for comparison.

What costs time is kept: gradients of every parameter, in every round; the cross-attention maps of
all layers and heads and their gradients, moved to the CPU; drawing, blur (SciPy) and CRF for one
photo after the other. The numerics are those of the `paper` variant, so that label maps can be
compared with `ovss` pixel by pixel.
"""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from transformers import BlipForImageTextRetrieval

from ovss.benchmark import PhotoBatch
from ovss.captions import Caption
from ovss.crf import DenseCRF
from ovss.salience import min_max
from ovss.utils.timing import StageTimes
from ovss.vlm import BlipITM, Tokens

try:
    import pydensecrf.densecrf as pydensecrf
except ImportError:  # the `benchmark` extra; builds with gcc
    pydensecrf = None


class ReleasedPipeline:
    """Label maps of photos.

    Args:
        model: with all parameters requiring gradients, as loaded.
        tokens_of: only its `tokenize` is used.
        prompts: names for each label.
        layer: counted from 0.
        head: counted from 0.
        rounds: of Salience DropOut.
        patches: dropped after each.
        precision: dtype of an autocast; None for float32.
    """

    def __init__(
        self,
        model: BlipForImageTextRetrieval,
        tokens_of: BlipITM,
        prompts,
        layer: int = 7,
        head: int = 9,
        rounds: int = 4,
        patches: int = 10,
        precision: torch.dtype | None = None,
    ) -> None:
        self.model, self.tokens_of, self.prompts = model, tokens_of, prompts
        self.layer, self.head, self.rounds, self.patches = layer, head, rounds, patches
        self.precision = precision
        self.times = StageTimes()
        self.attention: list[Tensor] = []
        for block in model.text_encoder.encoder.layer:
            block.crossattention.self.dropout.register_forward_pre_hook(self._retain)

    def _retain(self, _, inputs) -> None:
        inputs[0].retain_grad()
        self.attention.append(inputs[0])

    def __call__(self, batch: PhotoBatch) -> list[Tensor]:
        """Label maps `(H, W)` of photos with a background; `present` classes are looked for."""
        device = next(self.model.parameters()).device
        captions = [Caption.of([self.prompts[i][0] for i in own]) for own in batch.present]
        tokens = self.tokens_of.tokenize(captions)
        tokens = Tokens(
            tokens.input_ids.to(device), tokens.attention_mask.to(device), tokens.groups
        )
        totals = self._maps(batch.pixel_values.to(device), tokens)
        labels = []
        for maps, photo, own in zip(totals, batch.photos, batch.present, strict=True):
            table = torch.tensor([0, *own])
            labels.append(table[self._label(maps, photo.cpu())])
        return labels

    def _maps(self, pixels: Tensor, tokens: Tokens) -> list[np.ndarray]:
        grid = pixels.shape[-1] // self.model.config.vision_config.patch_size
        side = pixels.shape[-1] // grid
        dropped = np.zeros((len(pixels), grid * grid), bool)
        totals = [np.zeros((len(groups), grid, grid), np.float32) for groups in tokens.groups]
        for number in range(self.rounds):
            visible = torch.from_numpy(~dropped.reshape(-1, 1, grid, grid)).to(pixels.device)
            visible = visible.repeat_interleave(side, 2).repeat_interleave(side, 3)
            seen = self._gradcam(pixels * visible, tokens)  # (B, T, P) on the CPU
            seen = seen * ~dropped[:, None]
            for photo, groups in enumerate(tokens.groups):
                for k, group in enumerate(groups):
                    totals[photo][k] += seen[photo, list(group)].mean(0).reshape(grid, grid)
                salience = seen[photo, [t for group in groups for t in group]].sum(0)
                if number + 1 < self.rounds:
                    best = np.argsort(-salience, kind="stable")[: self.patches]
                    dropped[photo, best[salience[best] > 0]] = True
        return totals

    def _gradcam(self, pixels: Tensor, tokens: Tokens) -> np.ndarray:
        self.attention.clear()
        self.model.zero_grad()
        device = pixels.device
        on = self.precision is not None
        with torch.autocast(device.type, self.precision or torch.bfloat16, enabled=on):
            with self.times.measure("vision", device):
                image = self.model.vision_model(pixel_values=pixels).last_hidden_state
            with self.times.measure("text forward", device):
                hidden = self.model.text_encoder(
                    input_ids=tokens.input_ids,
                    attention_mask=tokens.attention_mask,
                    encoder_hidden_states=image,
                ).last_hidden_state
                logit = self.model.itm_head(hidden[:, 0])[:, 1]
        with self.times.measure("backward", device):
            logit.sum().backward()
        with self.times.measure("maps to the CPU", device):
            mask = tokens.attention_mask[:, None, :, None].cpu()
            maps = []
            for attention in self.attention:
                weights = attention.detach().cpu().float() * mask
                maps.append((weights * attention.grad.cpu().float().clamp(min=0))[:, :, 1:, 1:])
            return maps[self.layer][:, self.head].numpy()

    def _label(self, maps: np.ndarray, photo: Tensor) -> Tensor:
        height, width = photo.shape[-2:]
        with self.times.measure("upsample and blur"):
            grid = torch.from_numpy(maps)
            grid = torch.where(min_max(grid) < 0.15, 0.0, grid)[None]
            classes = torch.nn.functional.interpolate(
                grid, (height, width), mode="bilinear", align_corners=True
            )[0].numpy()
            nothing = (classes.max(0) == 0).astype(np.float32)
            sigma = 0.05 * max(height, width)
            channels = [gaussian_filter(c, sigma) for c in (nothing, *classes)]
            channels = min_max(torch.from_numpy(np.stack(channels)))
        with self.times.measure("crf"):
            probabilities = channels.softmax(0)
            if pydensecrf is None:
                return DenseCRF()(probabilities, photo).argmax(0)
            crf = pydensecrf.DenseCRF2D(width, height, len(probabilities))
            unary = -np.log(probabilities.numpy().clip(1e-5, 1.0)).reshape(len(probabilities), -1)
            crf.setUnaryEnergy(np.ascontiguousarray(unary))
            crf.addPairwiseGaussian(sxy=3, compat=7)
            rgb = np.ascontiguousarray(photo.permute(1, 2, 0).numpy())
            crf.addPairwiseBilateral(sxy=50, srgb=5, rgbim=rgb, compat=10)
            q = np.array(crf.inference(10)).reshape(probabilities.shape)
            return torch.from_numpy(q.argmax(0))
