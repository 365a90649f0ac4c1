"""Models: registry, checkpoints and downloads."""
