"""The demonstration: the embedded bundle at work on a bundled clip."""
