"""Run the tests, or measure float rounding, as on CPUs with other instruction sets than this one's.

The libraries choose their code by what the CPU can do; environment variables make them choose what
a smaller one would have got, so that a machine with AVX-512 notices what one without it would.

    python tools/instruction_sets.py test -m numerical   # pytest's own arguments
    python tools/instruction_sets.py spread
"""

from __future__ import annotations

import argparse
import os
import re
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
WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}
"""More threads than cores would spend most of their time waiting for each other."""


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
        code = subprocess.run(command, env={**os.environ, **WAITING, **own}).returncode
        if code:
            sys.exit(code)


def golden_outputs() -> Iterator[tuple[str, np.ndarray]]:
    """What the tiny model gives for the recorded photos and dropped patches: name -> values."""
    sys.path.insert(0, str(TESTS))
    from conftest import GOLDEN, Golden

    from ovss.captions import Caption
    from ovss.vlm import BlipITM

    golden, vlm = Golden(), BlipITM.from_pretrained(GOLDEN / "blip_tiny_hf")
    record = golden["dropout"]
    for case in sorted({name.partition("/")[0] for name in record.files}):
        found = re.fullmatch(r"(\w+)_L(\d+)_H(\d+)_img(\d)", case)
        if found is None:
            continue
        dataset, layer, head, image = found[1], int(found[2]) - 1, int(found[3]), int(found[4])
        caption = Caption.of(golden.cases[dataset][image]["classes"])
        pixels = golden.pixels(dataset, image).clone()
        for number, patches in enumerate(record[f"{case}/dropped"][:, 0]):
            seen = vlm.gradcam(pixels, [caption], layer, head)
            yield f"features/{case}/{number}", vlm.encode_image(pixels).numpy()
            yield f"logits/{case}/{number}", vlm.match(vlm.encode_image(pixels), [caption]).numpy()
            yield f"maps/{case}/{number}", seen.maps.numpy()
            for patch in patches:
                top, left = 16 * (patch // 7), 16 * (patch % 7)
                pixels[..., top : top + 16, left : left + 16] = 0


def measure_spread() -> None:
    """Print how far the outputs lie apart, in units of each one's largest value."""
    outputs = []
    with tempfile.TemporaryDirectory() as folder:
        for instructions in instruction_sets():
            for threads in THREADS:
                file = Path(folder) / f"{len(outputs)}.npz"
                command = [sys.executable, __file__, "outputs", str(file), str(threads)]
                subprocess.run(command, env={**os.environ, **WAITING, **instructions}, check=True)
                outputs.append(dict(np.load(file)))
    spreads: dict[str, list[float]] = {}
    for name in outputs[0]:
        values = np.stack([each[name] for each in outputs])
        spread = float((values.max(0) - values.min(0)).max() / np.abs(values).max())
        spreads.setdefault(name.partition("/")[0], []).append(spread)
    print(f"{len(outputs)} set-ups, float32's own spacing is {np.finfo(np.float32).eps:.1e}")
    for kind, own in spreads.items():
        print(f"{kind:9} {max(own):.1e} of the largest value, median {np.median(own):.1e}")


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
