"""The fully connected CRF that sharpens class probabilities along the edges of a photo."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, overload

import torch
from torch import Tensor

from ovss.crf.lattice import Lattice, gaussian_kernel
from ovss.crf.mean_field import mean_field
from ovss.crf.threads import SINGLE_THREADED, ThreadPool, map_photos
from ovss.sharing import Shared, shared

# A class that is ruled out gets a potential of -log(1e-5), as in pydensecrf's unary_from_softmax.
_MIN_PROBABILITY = 1e-5

# Pixels of the largest photo whose spatial kernel is kept, which then takes 50 MB.
_MOST_KEPT = 2**20


@dataclass(frozen=True)
class DenseCRF:
    """Fully connected CRF with Gaussian edge potentials (Kraehenbuehl & Koltun, NeurIPS 2011).

    The energy of a labelling is a unary term `-log(clip(p, 1e-5, 1))` and a Potts term between
    every two pixels with two kernels: one over positions, one over positions and colours. Mean
    field replaces the labelling by a distribution Q for each pixel. The defaults are those of the
    PnP-OVSS release, and Q is that of pydensecrf up to float32 rounding.

    Args:
        iterations: number of mean-field iterations.
        gaussian_sxy: standard deviation of the spatial kernel, in pixels.
        gaussian_compat: weight of the spatial kernel; 0 leaves it out.
        bilateral_sxy: standard deviation of the bilateral kernel in space, in pixels.
        bilateral_srgb: its standard deviation in colour, in levels of 0 to 255.
        bilateral_compat: its weight; 0 leaves it out.

    Raises:
        ValueError: if a setting is out of its range.

    Example:
        >>> import torch
        >>> photo = torch.zeros(3, 4, 6, dtype=torch.uint8)
        >>> photo[:, :, 3:] = 255  # black on the left, white on the right
        >>> left = torch.full((4, 6), 0.4)
        >>> left[:, :2] = 0.9  # the third column is black but looks white
        >>> q = DenseCRF()(torch.stack([left, 1 - left]), photo)
        >>> q.argmax(0)[0].tolist()
        [0, 0, 0, 1, 1, 1]
    """

    iterations: int = 10
    gaussian_sxy: float = 3
    gaussian_compat: float = 7
    bilateral_sxy: float = 50
    bilateral_srgb: float = 5
    bilateral_compat: float = 10

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            positive = field.name.endswith(("sxy", "srgb"))
            if not math.isfinite(value) or value < 0 or (positive and value == 0):
                expected = "positive" if positive else "0 or more"
                raise ValueError(f"Expected `{field.name}` to be {expected}, but got {value}")

    @overload
    def __call__(self, probabilities: Tensor, photos: Tensor) -> Tensor: ...

    @overload
    def __call__(
        self, probabilities: Sequence[Tensor], photos: Sequence[Tensor]
    ) -> list[Tensor]: ...

    def __call__(
        self, probabilities: Tensor | Sequence[Tensor], photos: Tensor | Sequence[Tensor]
    ) -> Tensor | list[Tensor]:
        """Refine one photo's class probabilities, or several photos'.

        Several photos are the same as one by one, only faster: a CPU takes them in parallel, a GPU
        takes those with the same number of classes as one problem.

        Args:
            probabilities: `(C, H, W)` floating point in 0 to 1, on the device to compute on; or a
                list of such, of any sizes and numbers of classes. They need not sum to 1.
            photos: `(3, H, W)` uint8 RGB in its original size, on any device; or a list of such.

        Returns:
            Q, `(C, H, W)` float32 with a sum of 1 over C; or a list of such.

        Raises:
            ValueError: if shapes, types or sizes do not fit, or a probability is NaN or not in
                0 to 1.
        """
        if isinstance(probabilities, Tensor) and isinstance(photos, Tensor):
            return self([probabilities], [photos])[0]
        if isinstance(probabilities, Tensor) or isinstance(photos, Tensor):
            raise ValueError(
                "Expected `probabilities` and `photos` to be two tensors or two lists, but got a "
                "tensor and a list: pass lists of the same length for several photos"
            )
        if len(probabilities) != len(photos) or len(photos) == 0:
            raise ValueError(
                f"Expected a photo for each of at least one probability map, but got "
                f"{len(probabilities)} probability maps and {len(photos)} photos"
            )
        which = [f" of photo {number}" if len(photos) > 1 else "" for number in range(len(photos))]
        for probability, photo, words in zip(probabilities, photos, which, strict=True):
            _check_photo(probability, photo, words)
        _check_ranges(probabilities, which)

        # The CPU's threads take a photo each. A GPU is too large for that: all photos of as many
        # classes become one.
        groups: dict[tuple[torch.device, int, int], list[int]] = {}
        for number, probability in enumerate(probabilities):
            alone = number if probability.device.type == "cpu" else 0
            groups.setdefault((probability.device, len(probability), alone), []).append(number)
        jobs = list(groups.values())
        values = shared()  # this thread's

        def refine(job: list[int], pool: ThreadPool = SINGLE_THREADED) -> list[Tensor]:
            own = [probabilities[i] for i in job], [photos[i] for i in job]
            return self._refine(*own, pool, values)

        results = dict[int, Tensor]()
        on_cpu = all(device.type == "cpu" for device, *_ in groups)
        refined = map_photos(refine, jobs) if on_cpu else [refine(job) for job in jobs]
        for job, result in zip(jobs, refined, strict=True):
            results.update(zip(job, result, strict=True))
        return [results[number] for number in range(len(photos))]

    def probabilities(
        self,
        logits: Sequence[Tensor],
        photos: Sequence[Tensor],
        guides: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        """See `ovss.refine.Refinement`: Q of the logits' softmax.

        The colours are the photos', whatever the guides.
        """
        with torch.autocast(logits[0].device.type, enabled=False):
            return self([own.softmax(0) for own in logits], photos)

    def settings(self) -> dict[str, Any]:
        """See `ovss.refine.Refinement`."""
        return {"kind": "crf", **asdict(self)}

    # Out of inference mode, which is each thread's own: the threads of a pool could not write to
    # a tensor that another made in it.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _refine(
        self,
        probabilities: Sequence[Tensor],
        photos: Sequence[Tensor],
        pool: ThreadPool = SINGLE_THREADED,
        values: Shared | None = None,
    ) -> list[Tensor]:
        """Refine photos with equally many classes on one device as one problem."""
        device = probabilities[0].device
        sizes = tuple((photo.shape[1], photo.shape[2]) for photo in photos)
        rows = [p.detach().to(torch.float32).flatten(1).T for p in probabilities]
        log_prior = torch.cat(rows).clamp_(_MIN_PROBABILITY, 1.0).log_()

        kernels = []
        if self.gaussian_compat:
            # Batches are of too many kinds to keep, and large photos too large.
            keep = len(sizes) == 1 and math.prod(sizes[0]) <= _MOST_KEPT
            build = _spatial_kernel if keep else _spatial_kernel.__wrapped__
            kernels.append(build(sizes, self.gaussian_sxy, self.gaussian_compat, device))
        if self.bilateral_compat:
            settings = (self.bilateral_sxy, self.bilateral_srgb, self.bilateral_compat)
            kernels.append(
                (values or shared()).once(
                    lambda: _bilateral_kernel(photos, *settings, device, pool),
                    "lattice", device, *settings, *photos, cost=len(photos),
                )
            )  # fmt: skip

        q = mean_field(log_prior, kernels, self.iterations, pool)
        split = q.split([h * w for h, w in sizes])
        return [
            part.T.contiguous().view(-1, h, w) for part, (h, w) in zip(split, sizes, strict=True)
        ]


@lru_cache(maxsize=16)
def _spatial_kernel(
    sizes: tuple[tuple[int, int], ...], sxy: float, compat: float, device: torch.device
) -> Lattice:
    """The kernel over positions alone depends on the sizes alone, and data sets have few sizes.

    About 50 bytes a pixel, 10 MB for 500 x 375.
    """
    position, photo_number = _positions(sizes, device)
    return gaussian_kernel(_divide(position, sxy), photo_number, compat)


def _bilateral_kernel(
    photos: Sequence[Tensor],
    sxy: float,
    srgb: float,
    compat: float,
    device: torch.device,
    pool: ThreadPool,
) -> Lattice:
    """The kernel over positions and colours of photos `(3, H_i, W_i)`."""
    sizes = tuple((photo.shape[1], photo.shape[2]) for photo in photos)
    position, photo_number = _positions(sizes, device)
    colour = torch.cat([p.to(device).flatten(1) for p in photos], dim=1)
    features = torch.cat([_divide(position, sxy), _divide(colour, srgb)])
    return gaussian_kernel(features, photo_number, compat, pool)


def _positions(
    sizes: Sequence[tuple[int, int]], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Coordinates x and y `(2, N)` of all pixels of all photos, and each pixel's photo `(N,)`."""
    grids = []
    for height, width in sizes:
        y = torch.arange(height, device=device)[:, None].expand(height, width)
        x = torch.arange(width, device=device).expand(height, width)
        grids.append(torch.stack([x, y]).flatten(1))
    if len(sizes) == 1:
        return grids[0], None
    pixels = [height * width for height, width in sizes]
    counts = torch.tensor(pixels, device=device)
    # Without the size a GPU is waited for.
    return torch.cat(grids, dim=1), torch.repeat_interleave(counts, output_size=sum(pixels))


def _divide(values: Tensor, sigma: float) -> Tensor:
    # A division by a number, not by a tensor, is a multiplication by its reciprocal on CUDA, which
    # rounds differently.
    return values.to(torch.float32) / torch.tensor(
        [sigma], dtype=torch.float32, device=values.device
    )


def _check_photo(probability: Tensor, photo: Tensor, which: str) -> None:
    if probability.ndim != 3 or probability.numel() == 0 or not probability.is_floating_point():
        raise ValueError(
            f"Expected `probabilities`{which} to be floating point of shape (C, H, W), but got "
            f"{probability.dtype} of shape {tuple(probability.shape)}; pass a list for several"
        )
    if photo.ndim != 3 or photo.shape[0] != 3 or photo.dtype != torch.uint8:
        raise ValueError(
            f"Expected `photos`{which} to be uint8 of shape (3, H, W), but got {photo.dtype} of "
            f"shape {tuple(photo.shape)}: pass the RGB photo as decoded, channels first"
        )
    if probability.shape[1:] != photo.shape[1:]:
        raise ValueError(
            f"Expected `probabilities`{which} to have the photo's size {tuple(photo.shape[1:])}, "
            f"but got {tuple(probability.shape[1:])}: resize the probabilities to the photo first"
        )


def _check_ranges(probabilities: Sequence[Tensor], which: Sequence[str]) -> None:
    # Of all photos at once: a GPU is waited for when a number is looked at.
    bounds = [torch.stack(each.detach().aminmax()).to(torch.float64) for each in probabilities]
    devices = {each.device for each in bounds}
    found = torch.stack(bounds).tolist() if len(devices) == 1 else [b.tolist() for b in bounds]
    for (low, high), words in zip(found, which, strict=True):
        # 1e-3 leaves room for a half-precision softmax.
        if not (low >= 0 and high <= 1 + 1e-3):
            raise ValueError(
                f"Expected `probabilities`{words} to be in 0 to 1, but got {low} to {high}: apply "
                f"a softmax over the classes, and look for NaN in the class maps"
            )
