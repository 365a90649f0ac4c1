"""Subscriptions: bring a conversation's events to the clients of this process."""
