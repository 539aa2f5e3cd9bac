"""What a step asks of a GPU, counted where there is none: operations, host waits, small copies.

    python benchmarks/launches.py
    python benchmarks/launches.py --config demo --config model/demo_clip

Runs the method on drawn scenes on the CPU, in one thread, and counts what PyTorch is asked for:
operations that are no views (at least one kernel each on a GPU); host waits, for which a GPU would
have to finish what it has to do (`item`, `tolist`, `nonzero`, a mask as an index, a copy to the
host); and values that the host hands over (`to(device)` of what is there already is nothing, which
a CPU cannot tell). Without refinement; the dense CRF of the same photos, as the one problem that it
is on a GPU, stands in a row of its own.
"""

import argparse
import tempfile
from collections import Counter

import torch
from ovss.datamodules.scene_generator import write_scenes
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ovss.cli.lightning_cli import load_segmenter
from ovss.crf import DenseCRF, lattice
from ovss.datamodules import Scenes

WAITS = {
    torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu,
    torch.Tensor.__bool__, torch.Tensor.__int__, torch.Tensor.__float__, torch.Tensor.__index__,
    torch.Tensor.nonzero, torch.nonzero, torch.unique, torch.Tensor.unique, torch.equal,
    torch.masked_select, torch.Tensor.masked_select,
}  # fmt: skip
FROM_THE_HOST = {torch.tensor, torch.as_tensor, torch.from_numpy}


class Counts(TorchFunctionMode):
    """Counts calls that would wait for a GPU, and values that the host hands over."""

    def __init__(self):
        super().__init__()
        self.waits, self.copies = Counter(), Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Count one call."""
        kwargs = kwargs or {}
        name = getattr(function, "__name__", str(function))
        if function in WAITS:
            self.waits[name] += 1
        elif function is torch.Tensor.to and any(map(_is_host, (*args, *kwargs.values()))):
            self.waits["to('cpu')"] += 1
        elif function is torch.Tensor.to and any(map(_is_place, (*args[1:], *kwargs.values()))):
            self.copies["to(device)"] += 1
        elif function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and _mask(args[1]):
            self.waits["a mask as an index"] += 1
        elif (
            function is torch.repeat_interleave
            and "output_size" not in kwargs
            and (len(args) == 1 or isinstance(args[1], torch.Tensor))
        ):
            self.waits[name] += 1
        elif function in FROM_THE_HOST:
            self.copies[name] += 1
        return function(*args, **kwargs)


def _is_host(each):
    return isinstance(each, str) and each == "cpu"


def _is_place(each):
    return isinstance(each, (torch.device, torch.Tensor))


def _mask(index):
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(each, torch.Tensor) and each.dtype == torch.bool for each in parts)


class Operations(TorchDispatchMode):
    """Counts operations that are not views."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Count one operation."""
        self.number += not function.is_view
        return function(*args, **(kwargs or {}))


def count(function):
    """Operations, host waits and copies of a call."""
    with Operations() as operations, Counts() as counts, torch.no_grad():
        function()
    return operations.number, counts.waits, counts.copies


def in_words(counts):
    """How often each was seen."""
    return ", ".join(f"{name} {number}" for name, number in counts.most_common()) or "-"


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", action="append", help="default: demo")
    parser.add_argument("--photos", type=int, nargs="+", default=[1, 2, 8], help="in a batch")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lattice._search_sorted = torch.searchsorted  # as on a GPU
    configs = [f"--config={name}" for name in args.config or ["demo"]]
    no_refinement = "refine" if "model/demo_clip" in str(configs) else "labeller.refine"
    segmenter = load_segmenter([*configs, f"--model.{no_refinement}=null"])
    print("| photos | part | operations | host waits | values from the host |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as work:
        write_scenes(work, dev=1, val=max(args.photos))
        data = Scenes(work, num_workers=0)
        data.spec = segmenter.input_spec(data.benchmark)
        for photos in args.photos:
            data.batch_size = photos
            data.setup("test")
            batch = next(iter(data.test_dataloader()))
            proposals = segmenter.propose(batch, data.benchmark)
            segmenter.prepare(data.benchmark)

            def step(batch=batch, proposals=proposals):
                segmenter(batch, data.benchmark, proposals)

            step()  # what is made once is made
            shares = [torch.full((2, *photo.shape[1:]), 0.5) for photo in batch.photos]
            parts = {
                "method": step,
                "CRF": lambda batch=batch, own=shares: DenseCRF()._refine(own, batch.photos),
            }
            for name, part in parts.items():
                operations, waits, copies = count(part)
                print(
                    f"| {photos} | {name} | {operations} | {sum(waits.values())}: "
                    f"{in_words(waits)} | {sum(copies.values())}: {in_words(copies)} |"
                )


if __name__ == "__main__":
    main()
