"""Pinned tools: what the sources of tools of other programs share.

A tool is used only with the definition that an operator has approved: its digest is kept in the
ledger's records, and another one needs another approval.
"""
