"""Model registry, checkpoints and downloads."""
