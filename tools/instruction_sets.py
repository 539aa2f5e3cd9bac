"""Run the tests, or measure float rounding, as on CPUs with other instruction sets than this one's.

The libraries choose their code by what the CPU can do; environment variables make them choose what
a smaller one would have got, so that a machine with AVX-512 notices what one without it would.

    python tools/instruction_sets.py test -m numerical   # pytest's own arguments
    python tools/instruction_sets.py spread
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

TESTS = Path(__file__).parents[1] / "tests"
CAPABILITIES = ("DEFAULT", "AVX2", "AVX512")
THREADS = (1, 2, 4)


def instruction_sets() -> list[dict[str, str]]:
    """Environments of this CPU and the smaller ones that it can stand for."""
    # ATen runs what it is told to, also what the CPU does not have: only downwards.
    own = torch.backends.cpu.get_cpu_capability()
    smaller = CAPABILITIES[: CAPABILITIES.index(own) + 1] if own in CAPABILITIES else ()
    return [
        {},
        *({"ATEN_CPU_CAPABILITY": each.lower()} for each in smaller),
        {"ONEDNN_MAX_CPU_ISA": "SSE41"},
        {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        {"MKL_CBWR": "COMPATIBLE"},
        {
            "ATEN_CPU_CAPABILITY": "default",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "MKL_CBWR": "COMPATIBLE",
        },
    ]


def run_tests(arguments: list[str]) -> None:
    """Run pytest under each instruction set, the numbers of threads by turns; stop at a failure."""
    for number, instructions in enumerate(instruction_sets()):
        own = {**instructions, "OVSS_TEST_THREADS": str(THREADS[number % len(THREADS)])}
        print("==", *(f"{name}={value}" for name, value in own.items()), flush=True)
        command = [sys.executable, "-m", "pytest", "-q", *arguments]
        code = subprocess.run(command, env={**os.environ, **own}).returncode
        if code:
            sys.exit(code)


def golden_outputs() -> Iterator[tuple[str, np.ndarray]]:
    """What the tiny model of the goldens gives: kind and photo -> values."""
    sys.path.insert(0, str(TESTS))
    from conftest import GOLDEN, Golden

    from ovss.captions import Caption
    from ovss.salience import SalienceDropout
    from ovss.vlm import BlipITM

    golden, vlm = Golden(), BlipITM.from_pretrained(GOLDEN / "blip_tiny_hf")
    dropout = SalienceDropout(variant="released")
    for image in range(len(golden.sizes)):
        caption = Caption.of(golden.cases["voc"][image]["classes"])
        pixels = golden.pixels("voc", image)
        features = vlm.encode_image(pixels)
        yield f"features/{image}", features.numpy()
        yield f"logits/{image}", vlm.match(features, [caption]).numpy()
        yield f"maps/{image}", vlm.gradcam_all(pixels, [caption]).maps.numpy()
        for dataset, cases in golden.cases.items():
            caption = Caption.of(cases[image]["classes"])
            rounds = dropout.look(vlm, golden.pixels(dataset, image), [caption], 4, 2)
            yield f"maps/{dataset}/{image}", rounds.maps[0].numpy()
            yield f"patches/{dataset}/{image}", rounds.dropped.numpy().astype(float)


def measure_spread() -> None:
    """Print how far the outputs lie apart, in units of each one's largest value."""
    outputs = []
    with tempfile.TemporaryDirectory() as folder:
        for instructions in instruction_sets():
            for threads in THREADS:
                file = Path(folder) / f"{len(outputs)}.npz"
                command = [sys.executable, __file__, "outputs", str(file), str(threads)]
                subprocess.run(command, env={**os.environ, **instructions}, check=True)
                outputs.append(dict(np.load(file)))
    worst: dict[str, float] = {}
    for name in outputs[0]:
        values = np.stack([each[name] for each in outputs])
        spread = float((values.max(0) - values.min(0)).max() / np.abs(values).max())
        kind = name.partition("/")[0]
        worst[kind] = max(worst.get(kind, 0.0), spread)
    print(f"{len(outputs)} set-ups, float32's own spacing is {np.finfo(np.float32).eps:.1e}")
    for kind, spread in worst.items():
        print(f"{kind:9} {spread:.1e} of the largest")


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("test", "spread", "outputs"))
    options, rest = parser.parse_known_args()
    if options.what == "test":
        run_tests(rest)
    elif options.what == "spread":
        measure_spread()
    else:
        torch.set_num_threads(int(rest[1]))
        np.savez(rest[0], **dict(golden_outputs()))


if __name__ == "__main__":
    main()
