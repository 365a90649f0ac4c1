"""Wrappers around any engine: supervised, continuing, scheduled."""
