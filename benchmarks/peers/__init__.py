"""Other engines, each behind the one call that benchmarks.engine measures."""
