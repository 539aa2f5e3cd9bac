"""How much each stage computes and moves at least, and how fast this machine can do either."""

import time

import torch

WORDS = 7
"""Tokens of a typical caption: [ENC] a picture of <two names> [SEP]."""


def costs(
    image_size: int,
    rounds: int,
    batch: int,
    small: bool,
    sizes: list[tuple[int, int]],
    channels: list[int],
    layer: int = 7,
    itemsize: int = 4,
    released: bool = False,
) -> dict[str, tuple[float, float]]:
    """Floating-point operations and bytes of stages, over all photos and rounds.

    A product of (m, k) and (k, n) counts 2mkn. Bytes are those of every operation's inputs and
    outputs, each read or written once, and of the weights once a batch. The CRF's are the splat
    and the slice of both kernels; the number of lattice vertices, which the blur depends on, is a
    property of the photo.

    Args:
        image_size: pixels.
        rounds: of Salience DropOut.
        batch: photos in a step.
        small: of the tiny model.
        sizes: width and height of each photo.
        channels: of each photo's label map, background included.
        layer: the cross-attention layer whose gradient is asked for.
        itemsize: bytes of a number in the network.
        released: keys and values of all patches in the text encoder; `ovss` goes without where the
            caption is short enough (`FoldedBlipCrossAttention`).
    """
    wide, layers, hidden = (32, 2, 64) if small else (1024, 24, 4096)
    narrow, blocks, inner = (48, 12, 64) if small else (768, 12, 3072)
    patches = (image_size // 16) ** 2
    seen, words, passes = patches + 1, WORDS, len(sizes) * rounds

    weights = layers * (4 * wide**2 + 2 * wide * hidden)
    vision = 2 * seen * weights + layers * 4 * seen**2 * wide + 2 * patches * 768 * wide
    activations = layers * seen * (22 * wide + 4 * hidden)
    steps = passes / batch
    vision_bytes = itemsize * (steps * weights + passes * activations)

    heads = 12
    keys_values = 2 * wide * narrow
    others = 6 * narrow**2 + 2 * narrow * inner
    if released or 2 * words >= narrow // heads:
        projections, attention = 2 * seen * keys_values, 4 * words * seen * narrow
        read, attended = 2 * wide + 4 * narrow, narrow  # keys and values are written and read
    else:
        projections, attention = 2 * words * keys_values, 4 * words * heads * seen * wide
        read, attended = 2 * wide, wide  # the features themselves
    text = blocks * (projections + 2 * words * others + attention)
    text_bytes = itemsize * (
        steps * blocks * (keys_values + others)
        + passes * blocks * seen * (read + 2 * words * heads)
    )
    # Gradients of activations only, from the matching head down to the layer.
    behind = blocks - 1 - layer
    backward = behind * (2 * words * others + attention)
    backward_bytes = itemsize * (
        steps * behind * others + passes * behind * 2 * seen * (attended + words * heads)
    )

    grid = image_size // 16
    maps = maps_bytes = crf = crf_bytes = 0.0
    for (width, height), count in zip(sizes, channels, strict=True):
        pixels = width * height
        maps += 2 * count * pixels * (grid + width + height)
        maps_bytes += 4 * pixels * count * 6
        entries = 2 * (6 + 3)  # corners of a point in 5 and in 2 dimensions, written and read
        crf += 10 * 2 * pixels * count * entries
        crf_bytes += 10 * pixels * entries * (4 * count + 8)
    return {
        "vision": (passes * vision, vision_bytes),
        "text forward": (passes * text, text_bytes),
        "text backward": (passes * backward, backward_bytes),
        # Of the released pipeline: gradients of activations and of weights.
        "backward": (passes * 2 * (vision + text), 2 * (vision_bytes + text_bytes)),
        "upsample and blur": (maps, maps_bytes),
        "crf": (crf, crf_bytes),
    }


def ceilings(device: str, precision: str, repeats: int = 5) -> dict[str, float]:
    """Time a large matrix product and a large copy: operations and bytes a second, the best of few.

    Args:
        device: `cpu` or `cuda`.
        precision: as the Trainer's; the product is in its dtype.
        repeats: how often to try.
    """
    dtype = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}
    side = 8192 if device == "cuda" else 2048
    left = torch.randn(side, side, device=device).to(dtype[precision.split("-")[0]])
    source = torch.zeros(2**30 if device == "cuda" else 2**27, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return {
        "flops": 2 * side**3 / _least(lambda: left @ left, repeats),
        "bytes": 2 * source.numel() / _least(lambda: target.copy_(source), repeats),
    }


def _least(function, repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):  # the first warms up
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])
