"""Vision-language models behind one interface."""

from ovss.vlm.base import VLM, GradCAM, ImageStatistics, Tokens
from ovss.vlm.blip import BlipITM
from ovss.vlm.bridgetower import BridgeTowerITM

__all__ = ["VLM", "BlipITM", "BridgeTowerITM", "GradCAM", "ImageStatistics", "Tokens"]
