"""Time GradCAM on a BLIP-large against the full backward pass that the released code does.

    python benchmarks/gradcam.py --threads 2
    python benchmarks/gradcam.py --device cuda --batch 35

The weights are random (nothing is downloaded) and the same for both. `full backward` differentiates
the match logit for every parameter, with the cross-attention probabilities of all layers retained,
as the released code does; `ovss` is what `BlipITM.gradcam` does after tokenising. A pair is one
run of each, one after the other, so that whatever else the machine does meets both; the ratio is
the median over pairs. Peak memory is that of a process that runs one of them only.
"""

import argparse
import copy
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from synthetic import large_blip
from transformers import BlipForImageTextRetrieval

from ovss.vlm import BlipITM, GradCAM, Tokens

# What the paper uses: block 8 and head 9, blocks counted from 1 there.
LAYER, HEAD = 7, 9
ENC, SEP = 30523, 102
WORDS = (1037, 3861, 1997, 4937, 3899, 9055)  # "a picture of cat dog bottle", BERT's vocabulary


def make_inputs(image_size: int, batch: int, device: str) -> tuple[torch.Tensor, Tokens]:
    """Draw noise photos `(B, 3, S, S)` and one caption of three classes for each."""
    photos = torch.randn(batch, 3, image_size, image_size, device=device)
    ids = torch.tensor([[ENC, *WORDS, SEP]] * batch, device=device)
    return photos, Tokens(ids, torch.ones_like(ids), (((3,), (4,), (5,)),) * batch)


Run = Callable[[torch.Tensor, Tokens], GradCAM]


def ovss(model: BlipForImageTextRetrieval) -> Run:
    """Differentiate from the chosen layer's attention probabilities only, parameters frozen."""
    # Token ids are fed directly, so the tokenizer only has to lack an [ENC] of its own.
    vlm = BlipITM(model, SimpleNamespace(get_vocab=dict))

    def run(photos: torch.Tensor, tokens: Tokens) -> GradCAM:
        return vlm.attend(vlm.encode_image(photos), tokens, LAYER, HEAD)

    return run


def full_backward(model: BlipForImageTextRetrieval) -> Run:
    """Do as the released code does: `loss.backward()` through the whole model."""
    grid = model.config.vision_config.image_size // model.config.vision_config.patch_size
    probabilities: list[torch.Tensor] = []

    def retain(_, inputs) -> None:
        inputs[0].retain_grad()
        probabilities.append(inputs[0])

    for block in model.text_encoder.encoder.layer:
        block.crossattention.self.dropout.register_forward_pre_hook(retain)

    def run(photos: torch.Tensor, tokens: Tokens) -> GradCAM:
        probabilities.clear()
        model.zero_grad()
        image = model.vision_model(pixel_values=photos).last_hidden_state
        hidden = model.text_encoder(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=image,
        ).last_hidden_state
        logit = model.itm_head(hidden[:, 0])[:, 1]
        logit.sum().backward()
        with torch.no_grad():
            chosen = probabilities[LAYER]
            weighted = (chosen * chosen.grad.clamp(min=0))[:, HEAD, 1:, 1:]
            return GradCAM(weighted.unflatten(-1, (grid, grid)), logit.detach())

    return run


VARIANTS: dict[str, Callable[[BlipForImageTextRetrieval], Run]] = {
    "full backward": full_backward,
    "ovss": ovss,
}


def seconds(run: Run, photos: torch.Tensor, tokens: Tokens) -> float:
    """Time one call."""
    start = time.perf_counter()
    run(photos, tokens)
    if photos.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(device: str) -> float:
    """Read the peak memory of this process, or of its tensors on the GPU, in MiB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    # Not `getrusage`: a child process starts from its parent's peak there.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def measure_memory(args: argparse.Namespace, name: str) -> float:
    """Run one variant in a process of its own and return its peak memory in MiB."""
    options = ("image_size", "batch", "threads", "device")
    command = [sys.executable, __file__, "--only", name]
    for option in options:
        command += [f"--{option.replace('_', '-')}", str(getattr(args, option))]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(result.stdout.split()[-1])


def compare(args: argparse.Namespace) -> None:
    """Print times, ratio, peak memory and the largest difference of the results."""
    device = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    print(
        f"Python {platform.python_version()}, PyTorch {torch.__version__}, {device}, "
        f"{os.cpu_count()} cores, {args.threads} threads, load {os.getloadavg()[0]:.1f}; "
        f"{args.image_size} px, batch {args.batch}, layer {LAYER}, head {HEAD}\n"
    )
    # Before this process holds a model of its own.
    peaks = {name: measure_memory(args, name) for name in VARIANTS}
    model = large_blip(args.image_size).to(args.device)
    # A copy each: `BlipITM` freezes the parameters and swaps the vision encoder's attention.
    runs = {name: build(copy.deepcopy(model)) for name, build in VARIANTS.items()}
    inputs = make_inputs(args.image_size, args.batch, args.device)
    results = {name: run(*inputs) for name, run in runs.items()}  # warms up, too
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(args.repeats):
        for name, run in runs.items():
            times[name].append(seconds(run, *inputs))
    print("| variant | median s | least s | peak MiB |\n|---|---|---|---|")
    for name in VARIANTS:
        median, least = statistics.median(times[name]), min(times[name])
        print(f"| {name} | {median:.3f} | {least:.3f} | {peaks[name]:.0f} |")
    ratio = statistics.median(theirs / ours for theirs, ours in zip(*times.values(), strict=True))
    theirs, ours = results.values()
    difference = (theirs.maps - ours.maps).abs().max().item()
    print(
        f"\n{ratio:.2f} times faster, {peaks['full backward'] / peaks['ovss']:.2f} times less "
        f"memory; maps differ by at most {difference:.1e} (largest value "
        f"{theirs.maps.max().item():.1e}), match logits by at most "
        f"{(theirs.match_logit - ours.match_logit).abs().max().item():.1e}"
    )


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--image-size", type=int, default=336, help="pixels, a multiple of 16")
    parser.add_argument("--batch", type=int, default=1, help="photos in a step")
    parser.add_argument("--repeats", type=int, default=5, help="pairs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", choices=list(VARIANTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.only:
        run = VARIANTS[args.only](large_blip(args.image_size).to(args.device))
        run(*make_inputs(args.image_size, args.batch, args.device))
        print(peak_memory(args.device))
    else:
        compare(args)


if __name__ == "__main__":
    main()
