"""Settings: their models, loading, validation and reference."""
