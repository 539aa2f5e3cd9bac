"""Tuning without segmentation labels: settings chosen by the paper's weak reward (eq. 6 and 7).

Needs the extra `tune` (Optuna and matplotlib) for everything but its settings.
"""

from ovss.tuning.settings import RewardSettings, StudySettings
from ovss.tuning.space import SearchSpace, Setting

__all__ = ["RewardSettings", "SearchSpace", "Setting", "StudySettings"]
