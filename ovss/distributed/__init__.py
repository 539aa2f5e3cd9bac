"""The processes of a run: texts between them, signals to them, a watch on each other."""
