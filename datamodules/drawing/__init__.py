"""Draws the demo's benchmark: cartoon scenes of twelve classes with exact masks."""

from datamodules.drawing.benchmark import write_benchmark
from datamodules.drawing.scene import CLASSES, classes_in, draw_scene

__all__ = ["CLASSES", "classes_in", "draw_scene", "write_benchmark"]
