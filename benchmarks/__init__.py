"""Benchmarks of speed and memory: ``python -m benchmarks.NAME`` from the repository root writes ``benchmarks/results/NAME-DEVICE.json``."""
