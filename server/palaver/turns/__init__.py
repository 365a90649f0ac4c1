"""Running turns: claims, the skill's `Turn`, the journal, the writer, graceful shutdown."""
