"""Lightning callbacks: progress, the run's folder and results."""

from ovss.callbacks.progress import PhotoProgress
from ovss.callbacks.results import ResultsWriter
from ovss.callbacks.run_folder import RunFolder

__all__ = ["PhotoProgress", "ResultsWriter", "RunFolder"]
