"""What every room needs: files, time, progress, text."""
