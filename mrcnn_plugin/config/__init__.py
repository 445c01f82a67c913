"""Configs: found, loaded, overridden, and adapted to what a run needs of them."""
