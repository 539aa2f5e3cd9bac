"""Dense CRF in plain PyTorch."""

from ovss.crf.dense import DenseCRF

__all__ = ["DenseCRF"]
