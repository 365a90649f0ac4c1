"""Admission control, quotas and the fair scheduler of generations."""
