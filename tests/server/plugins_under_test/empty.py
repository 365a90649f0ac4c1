"""A module that contributes nothing."""
