"""Whole models as files that run elsewhere."""
