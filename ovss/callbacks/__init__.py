"""Lightning callbacks: progress, the run's folder, results, predictions and the report."""

from ovss.callbacks.coco import CocoWriter
from ovss.callbacks.loader import LoaderWatch
from ovss.callbacks.overlays import OverlayWriter
from ovss.callbacks.progress import PhotoProgress
from ovss.callbacks.report import ReportWriter
from ovss.callbacks.results import ResultsWriter
from ovss.callbacks.run_folder import RunFolder

__all__ = [
    "CocoWriter",
    "LoaderWatch",
    "OverlayWriter",
    "PhotoProgress",
    "ReportWriter",
    "ResultsWriter",
    "RunFolder",
]
