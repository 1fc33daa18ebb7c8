"""Benchmarks: every claim as a command."""
