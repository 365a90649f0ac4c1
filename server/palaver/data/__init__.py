"""Training data: from raw rows to clean, deduplicated, redacted and split files.

Needs the extra ``data``; its libraries are imported where they are used.
"""
