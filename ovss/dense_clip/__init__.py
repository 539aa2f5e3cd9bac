"""CLIP-based training-free methods: vanilla, MaskCLIP, SCLIP, ClearCLIP, NACLIP, ProxyCLIP."""

from ovss.dense_clip.methods import METHODS
from ovss.dense_clip.segmenter import DenseCLIP
from ovss.dense_clip.vocabulary import queries_of, read_vocabulary

__all__ = ["METHODS", "DenseCLIP", "queries_of", "read_vocabulary"]
