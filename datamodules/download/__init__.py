"""Downloads of the benchmarks with open archives."""
