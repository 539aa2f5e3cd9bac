"""Lightning callbacks: progress and results."""

from ovss.callbacks.progress import PhotoProgress
from ovss.callbacks.results import ResultsWriter

__all__ = ["PhotoProgress", "ResultsWriter"]
