"""A run's folder."""
