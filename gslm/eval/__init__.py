"""Metrics: how intelligible and how natural speech is, each in its own file."""
