"""What sharpens class logits along the edges of a photo: one interface, by a short name."""

from ovss.refine.base import CHOICES, Refinement, resolve
from ovss.refine.pamr import PAMR

__all__ = ["CHOICES", "PAMR", "Refinement", "resolve"]
