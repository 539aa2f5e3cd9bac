"""Vision-language models behind one interface."""

from ovss.gradcam import GradCAM
from ovss.vlm.auto import load_vlm
from ovss.vlm.base import VLM, ImageStatistics, Tokens
from ovss.vlm.blip import BlipITM
from ovss.vlm.bridgetower import BridgeTowerITM

__all__ = [
    "VLM",
    "BlipITM",
    "BridgeTowerITM",
    "GradCAM",
    "ImageStatistics",
    "Tokens",
    "load_vlm",
]
