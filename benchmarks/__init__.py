"""Measurements that anyone can repeat: `python -m benchmarks.<name>`, from the repository's root.

Each appends JSONL rows to benchmarks/results/, with machine, versions and commit.
"""
