"""Overlap, boundary and surface metrics; numpy and scipy only. Definitions and policies: docs/metrics.md."""
