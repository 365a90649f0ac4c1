"""Files that people upload and send with messages: `store` has the rules, `objects` the storage."""
