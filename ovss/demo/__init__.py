"""The weights that ship with the package: a tiny BLIP-ITM and a tiny CLIP for the drawn scenes."""

from pathlib import Path

from ovss.utils.shipped import shipped_section

CHECKPOINT = Path(__file__).parent / "blip"
"""Folder of the weights, in the layout that `ovss.vlm.BlipITM.from_pretrained` reads.

`tools/train_demo_vlm.py` made it; `training.json` in it says how.
"""

CLIP_CHECKPOINT = Path(__file__).parent / "clip"
"""Folder of a `transformers.CLIPModel` and its tokenizer, which `tools/train_demo_clip.py` made."""

SETTINGS = shipped_section("demo", "model")
"""The `model` section that the demo and `ovss.segment` use with these weights."""
