"""Draws the demo's data set: cartoon scenes of twelve classes with exact masks."""

from .dataset import write_scenes
from .scene import CLASSES, classes_in, draw_scene

__all__ = ["CLASSES", "classes_in", "draw_scene", "write_scenes"]
