"""The field's measures: average precision, FDDB's curves, and the runs over whole benchmarks."""
