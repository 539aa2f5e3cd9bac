"""What every room needs: files, signals, time, progress, text."""
