"""Quantisers: from feature vectors to unit ids."""
