"""What writing results costs, and whether memory or open files grow: the demo, many photos.

python benchmarks/overheads.py --photos 2000
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from ovss.datamodules.scene_generator import write_scenes

from ovss.callbacks import ResultsWriter, RunFolder
from ovss.datamodules import Scenes
from ovss.module import PnPOVSS
from ovss.segmentation import demo_settings
from ovss.vlm import BlipITM

HOOKS = (
    "setup",
    "on_test_start",
    "on_test_epoch_start",
    "on_test_batch_end",
    "on_test_epoch_end",
    "on_test_end",
)


class TimedRunFolder(RunFolder):
    """Adds up the seconds spent in the run folder's hooks."""

    seconds = 0.0

    def __getattribute__(self, name):
        """Wrap the hooks in a clock."""
        found = super().__getattribute__(name)
        if name not in HOOKS:
            return found

        def timed(*args, **kwargs):
            start = time.perf_counter()
            try:
                return found(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


class Memory(Callback):
    """Notes this process's resident memory and open files after each batch."""

    def __init__(self):
        self.photos = [0]
        self.mebibytes = []
        self.files = []

    def on_test_batch_end(self, trainer, module, outputs, batch, *args):
        """Note it."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.photos.append(self.photos[-1] + len(batch.ids))
        self.mebibytes.append(pages * resource.getpagesize() / 2**20)
        self.files.append(len(list(Path("/proc/self/fd").iterdir())))


def main():
    """Run the demo once and print shares and slope."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as work:
        write_scenes(Path(work) / "scenes", dev=2, val=options.photos)
        memory, folder = Memory(), TimedRunFolder()
        trainer = Trainer(
            logger=False,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            default_root_dir=Path(work) / "run",
            callbacks=[folder, ResultsWriter(show=False), memory],
        )
        module = PnPOVSS(BlipITM.from_pretrained("demo"), **demo_settings())
        data = Scenes(Path(work) / "scenes", num_workers=1)
        start = time.perf_counter()
        trainer.test(module, datamodule=data, verbose=False)
        seconds = time.perf_counter() - start
    print(
        f"{options.photos} photos in {seconds:.1f} s; label maps, lock and fingerprint "
        f"{folder.seconds:.2f} s, {100 * folder.seconds / seconds:.2f} % of the run"
    )
    # The first tenth fills caches: matrices for each photo size, the allocator's pools.
    settled = len(memory.mebibytes) // 10
    photos, mebibytes = memory.photos[1:][settled:], memory.mebibytes[settled:]
    slope = np.polyfit(photos, mebibytes, 1)[0]
    print(
        f"memory {mebibytes[0]:.0f} MiB after {photos[0]} photos, {mebibytes[-1]:.0f} MiB after "
        f"{photos[-1]}: {1024 * slope:.2f} KiB a photo; open files "
        f"{memory.files[settled]} and {memory.files[-1]}, at most {max(memory.files)}"
    )


if __name__ == "__main__":
    main()
