"""Whole experiments and the data they start from; each folder is one recipe."""
