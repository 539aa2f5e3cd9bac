"""What proposals cost beside the method: CPU seconds a photo, published sizes, random weights.

    python benchmarks/proposal_cost.py

CPU seconds of one thread, so that what else runs on the machine matters little. They do not depend
on the weights. The tokenizer is the tests' tiny one, which cuts names into more pieces than the
published ones do, so the text side comes out slower than it is.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ovss.benchmark import PhotoBatch, of_classes
from ovss.pnp import gradcam_rounds
from ovss.proposals import ContrastiveProposer, MatchProposer, Proposer
from ovss.salience import SalienceDropout
from ovss.vlm import VLM, BlipITM, BridgeTowerITM

TOKENIZER = Path(__file__).parents[1] / "tests" / "data" / "golden" / "blip_tiny_hf"
CLASSES = [f"class {number}" for number in range(171)]


def blip_large() -> VLM:
    """BLIP-ITM large at 336 pixels."""
    from transformers import AutoTokenizer, BlipConfig, BlipForImageTextRetrieval

    config = BlipConfig(
        text_config={"encoder_hidden_size": 1024, "bos_token_id": 30522},
        vision_config={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
        },
    )
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    return BlipITM(BlipForImageTextRetrieval(config), tokenizer, "BLIP large, 336 px")


def bridgetower_base() -> VLM:
    """BridgeTower base at its own 288 pixels."""
    from transformers import AutoTokenizer, BridgeTowerConfig, BridgeTowerForImageAndTextRetrieval

    model = BridgeTowerForImageAndTextRetrieval(BridgeTowerConfig())
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    return BridgeTowerITM(model, tokenizer, "BridgeTower base, 288 px")


def seconds(run: Callable[[], object], repeats: int) -> float:
    """The least CPU time of some runs."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for build in (blip_large, bridgetower_base):
        vlm = build()
        pixels = torch.randn(1, 3, vlm.image_size, vlm.image_size)
        batch = PhotoBatch(["photo"], [torch.zeros(3, 8, 8, dtype=torch.uint8)], pixels)
        names = [[(name,) for name in CLASSES[:3]]]
        rows: dict[str, Callable[[], object]] = {
            "vision encoder": lambda v=vlm, p=pixels: v.encode_image(p),
            "method, 3 classes, 4 rounds": lambda v=vlm, p=pixels, n=names: gradcam_rounds(
                v, p, n, 3, "mean", SalienceDropout()
            ),
        }
        itc = ContrastiveProposer()
        for count in (20, 171):
            benchmark = of_classes(CLASSES[:count])
            kinds: list[tuple[str, Proposer]] = [("itm", MatchProposer())]
            if isinstance(vlm, BlipITM):
                kinds.append(("itc, after the first photo", itc))
            for name, proposer in kinds:
                proposer(batch, benchmark, vlm)
                rows[f"{name}, {count} classes"] = lambda p=proposer, b=batch, c=benchmark, v=vlm: (
                    p(b, c, v)
                )
        print(vlm.name)
        for name, run in rows.items():
            print(f"  {name:<40} {seconds(run, options.repeats):7.2f} s", flush=True)


if __name__ == "__main__":
    main()
