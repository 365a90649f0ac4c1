"""Retention: for how long the ledgers keep what nobody uses any more."""

import pydantic

from palaver import PluginSettings

DAY = 86_400.0
DEAD_LETTER_DAYS = 30
"""Days for which a dead letter is kept."""


class RetentionSettings(PluginSettings):
    """What the settings of every ledger have in common."""

    retention_days: int = pydantic.Field(default=365, ge=0, le=36_500)
    """Days without any activity after which a conversation goes, as a whole, and what is remembered
    about a person. 0 keeps them for ever."""

    @property
    def retention_seconds(self) -> float:
        """The same in seconds."""
        return self.retention_days * DAY
