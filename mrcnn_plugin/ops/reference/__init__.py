"""Slow, obvious PyTorch twins of every op: oracles of the tests, and what runs without csrc."""
