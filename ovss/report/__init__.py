"""What comes out of a run, for people: tables, files and pages."""

from ovss.report.tables import headline, per_class_table, percent, scores_as_data, write_scores

__all__ = ["headline", "per_class_table", "percent", "scores_as_data", "write_scores"]
