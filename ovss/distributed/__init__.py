"""What the processes of a run have with each other: texts, signals, an eye on each other."""
