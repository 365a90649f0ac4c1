"""Retention settings that the ledgers share."""

import pydantic

from palaver import PluginSettings

DAY = 86_400.0
DEAD_LETTER_DAYS = 30
"""Days for which a ledger keeps a dead letter."""


class RetentionSettings(PluginSettings):
    """Settings of every ledger."""

    retention_days: int = pydantic.Field(default=365, ge=0, le=36_500)
    """Days of inactivity after which a conversation is deleted as a whole, and so are the memories
    about a person. 0 keeps them forever."""

    @property
    def retention_seconds(self) -> float:
        return self.retention_days * DAY
