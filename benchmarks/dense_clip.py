"""CLIP-based methods: photos a second against a port that does one window at a time.

    python benchmarks/dense_clip.py                       # a CPU, two threads; about ten minutes
    python benchmarks/dense_clip.py --memory              # peak memory by the number of windows
    python benchmarks/dense_clip.py --methods sclip --layers 2 --photos 1   # tries the script

Weights are random (ViT-B/16, and ViT-B/8 for DINO), photos are noise of VOC's sizes, settings the
field's: shorter side 336, windows of 224 every 112 pixels. The port is written anew after the
references: windows one by one, logits of every name resized to each window, added on a canvas and
resized to the photo, then the softmax over all names. Text features are random and cost neither;
NACLIP is without PAMR.
"""

import argparse
import resource
import subprocess
import sys
import time

import torch
from torch.nn.functional import interpolate, normalize
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

from ovss.benchmark import PhotoBatch, of_classes
from ovss.dense_clip import METHODS, DenseCLIP
from ovss.dense_clip.image import dino_pixels, resized_positions
from ovss.dense_clip.methods import neighbourhood
from ovss.preprocessing import Preprocess
from ovss.proposals import Proposal

SIZES = ((375, 500), (500, 375), (333, 500), (375, 500))


class NoTokenizer:
    """In place of a tokenizer: nothing is read."""

    eos_token_id = 49407

    def __len__(self):
        return 49408


class Port:
    """One window at a time.

    Args:
        clip: with transformers' own layers.
        dino: the same, or None.
        method: a key of `METHODS`.
        features: of the names, `(Q, E)`.
    """

    def __init__(self, clip, dino, method, features):
        self.clip, self.dino, self.method, self.features = clip, dino, method, features

    def __call__(self, pixels, size, crop, stride, scale):
        """Label map of a photo."""
        height, width = pixels.shape[-2:]
        canvas = pixels.new_zeros(1, len(self.features), height, width)
        count = pixels.new_zeros(1, 1, height, width)
        for row in range(max(height - crop + stride - 1, 0) // stride + 1):
            for column in range(max(width - crop + stride - 1, 0) // stride + 1):
                bottom, right = min(row * stride + crop, height), min(column * stride + crop, width)
                top, left = max(bottom - crop, 0), max(right - crop, 0)
                logits = self.window(pixels[None, :, top:bottom, left:right])
                canvas[:, :, top:bottom, left:right] += logits
                count[:, :, top:bottom, left:right] += 1
        logits = interpolate(canvas / count, size, mode="bilinear")[0]
        return (scale * logits).softmax(0).argmax(0)

    def window(self, pixels):
        """Cosines `(1, Q, H, W)` of a window."""
        vision, (height, width) = self.clip.vision_model, pixels.shape[-2:]
        patches = vision.embeddings.patch_embedding(pixels)
        grid = tuple(patches.shape[-2:])
        tokens = torch.cat(
            [vision.embeddings.class_embedding.expand(1, 1, -1), patches.flatten(2).mT], 1
        )
        tokens = tokens + resized_positions(vision.embeddings.position_embedding.weight, grid)
        tokens = vision.pre_layrnorm(tokens)
        for layer in vision.encoder.layers[:-1]:
            tokens = layer(tokens, None)
        out, grid = self.last(vision.encoder.layers[-1], tokens, grid, pixels)
        dense = normalize(self.clip.visual_projection(vision.post_layernorm(out)), dim=-1)
        logits = (dense @ self.features.T).mT.unflatten(-1, grid)
        return interpolate(logits, (height, width), mode="bilinear")

    def last(self, layer, tokens, grid, pixels):
        """The last layer."""
        attention, normed = layer.self_attn, layer.layer_norm1(tokens)
        heads = attention.num_heads
        q, k, v = (
            projection(normed).unflatten(-1, (heads, -1)).transpose(1, 2)[0]
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        s = q.shape[-1] ** -0.5
        if self.method == "proxyclip":
            weights, v, grid = self.proxy(pixels, v, grid)
        elif self.method == "maskclip":
            weights = torch.eye(v.shape[1]).expand(heads, -1, -1)
        elif self.method == "sclip":
            weights = (s * q @ q.mT).softmax(-1) + (s * k @ k.mT).softmax(-1)
        elif self.method == "clearclip":
            weights = (s * q @ q.mT).softmax(-1)
        elif self.method == "naclip":
            weights = (s * k @ k.mT + neighbourhood(grid, 5.0)).softmax(-1)
        else:
            weights = (s * q @ k.mT).softmax(-1)
        out = attention.out_proj((weights @ v).transpose(0, 1).flatten(1))[None]
        if METHODS[self.method].residual:
            out = tokens + out
            out = out + layer.mlp(layer.layer_norm2(out))
        return (out if self.method == "proxyclip" else out[:, 1:]), grid

    def proxy(self, pixels, v, grid):
        """ProxyCLIP's attention, values and grid."""
        patches = self.dino.embeddings.patch_embeddings.projection(dino_pixels(pixels))
        proxy_grid = tuple(patches.shape[-2:])
        tokens = torch.cat([self.dino.embeddings.cls_token, patches.flatten(2).mT], 1)
        tokens = tokens + resized_positions(self.dino.embeddings.position_embeddings[0], proxy_grid)
        for layer in self.dino.layers:
            tokens = layer(tokens, None)
        unit = normalize(self.dino.layernorm(tokens)[0, 1:], dim=-1)
        similarity = unit @ unit.T
        similarity = 3.0 * (similarity - 1.2 * similarity.mean())
        similarity[similarity < 0] = -torch.inf
        values = v[:, 1:].mT.unflatten(-1, grid)
        values = interpolate(values, proxy_grid, mode="bilinear").flatten(2).mT
        return similarity.softmax(-1).expand(len(v), -1, -1), values, proxy_grid


def models(method, patch, layers):
    """CLIP and DINO twice, with the same random weights."""
    torch.manual_seed(0)
    vision = {"patch_size": 16, "num_hidden_layers": layers}
    config = CLIPConfig(vision_config=vision, text_config={"num_hidden_layers": 1})
    config.text_config.eos_token_id = 49407
    clips = [CLIPModel(config).eval() for _ in range(2)]
    clips[1].load_state_dict(clips[0].state_dict())
    if method != "proxyclip":
        return clips, [None, None]
    config = ViTConfig(patch_size=patch, num_hidden_layers=layers)
    dinos = [ViTModel(config, add_pooling_layer=False).eval() for _ in range(2)]
    dinos[1].load_state_dict(dinos[0].state_dict())
    return clips, dinos


def prepared(args, method, patch):
    """`DenseCLIP`, the port, and photos as a batch."""
    clips, dinos = models(method, patch, args.layers)
    benchmark = of_classes([f"class {i}" for i in range(args.names - 1)])
    sizes = {"short_side": 336, "crop": 224, "stride": args.stride}
    model = DenseCLIP(
        clips[0], NoTokenizer(), method, dinos[0], refine=None, logit_scale=40, **sizes
    )
    features = normalize(torch.randn(args.names, 512), dim=-1)
    model.text.features = lambda names: features
    preprocess = Preprocess(model.input_spec(benchmark))
    photos = [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8)
        for size in (SIZES * args.photos)[: args.photos]
    ]
    pixels = [preprocess(photo.permute(1, 2, 0).numpy()) for photo in photos]
    batch = PhotoBatch([f"{i}" for i in range(len(photos))], photos, pixels)
    proposals = [Proposal(benchmark.searchable, (1.0,) * (args.names - 1))] * len(photos)
    port = Port(clips[1], dinos[1], method, features)

    def ours():
        return model(batch, benchmark, proposals)

    def one_by_one():
        settings = model.inference(benchmark)
        return [
            port(own, photo.shape[-2:], settings.crop, settings.stride, settings.logit_scale)
            for own, photo in zip(pixels, photos, strict=True)
        ]

    return ours, one_by_one


def timed(run):
    """Seconds by the clock and of the processor, and what came out."""
    clock, processor = time.perf_counter(), time.process_time()
    found = run()
    return time.perf_counter() - clock, time.process_time() - processor, found


def compare(args):
    """A row for each method."""
    print(
        "| method | photos/s: port | ovss | ratio | processor s: port | ovss | ratio | same label |"
    )
    for name in args.methods:
        method, _, patch = name.partition("/")
        ours, port = prepared(args, method, int(patch or 8))
        rows = {"port": [], "ovss": []}
        ours(), port()
        for _ in range(args.repeats):  # by turns
            *times, expected = timed(port)
            rows["port"].append(times)
            *times, found = timed(ours)
            rows["ovss"].append(times)
        (clock, processor), (our_clock, our_processor) = (
            [min(column) / args.photos for column in zip(*rows[which], strict=True)]
            for which in ("port", "ovss")
        )
        same = (
            torch.cat([(a == b).flatten() for a, b in zip(found, expected, strict=True)])
            .double()
            .mean()
        )
        print(
            f"| {name} | {1 / clock:.3f} | {1 / our_clock:.3f} | {clock / our_clock:.2f} | "
            f"{processor:.2f} | {our_processor:.2f} | {processor / our_processor:.2f} | "
            f"{100 * same:.4f} % |",
            flush=True,
        )


def memory(args):
    """Peak memory with more and more windows, each in a process of its own."""
    for stride in (112, 56, 28):
        command = [sys.executable, __file__, "--peak", f"--stride={stride}", "--photos=1"]
        command += [f"--methods={args.methods[0]}", f"--threads={args.threads}"]
        command += [f"--names={args.names}", "--layers=2"]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


def peak(args):
    """Peak memory of one photo."""
    ours, _ = prepared(args, args.methods[0], 8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows, columns = ((n - 224 + args.stride - 1) // args.stride + 1 for n in (336, 448))
    print(f"{rows * columns} windows: {(after - before) / 1024:.0f} MiB more than before")


def main():
    """Run it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", nargs="+", default=[*METHODS, "proxyclip/16"])
    parser.add_argument("--photos", type=int, default=2)
    parser.add_argument("--names", type=int, default=57, help="of SCLIP's VOC with background")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--stride", type=int, default=112)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with torch.inference_mode():
        (memory if args.memory else peak if args.peak else compare)(args)


if __name__ == "__main__":
    main()
