"""Clients of other projects, unmodified, against a running server. Their scripts run in an
environment of their own: ``.venv-clients``, and ``node_modules`` here."""
