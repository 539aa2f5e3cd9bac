"""Vision-language models behind one interface."""

from ovss.vlm.base import VLM, GradCAM, ImageStatistics, Tokens
from ovss.vlm.blip import BlipITM

__all__ = ["VLM", "BlipITM", "GradCAM", "ImageStatistics", "Tokens"]
