"""Spoken language models without text."""

__version__ = "0.1.0"
