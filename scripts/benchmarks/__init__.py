"""Sub-commands of scripts/benchmark.py, and what they share."""
