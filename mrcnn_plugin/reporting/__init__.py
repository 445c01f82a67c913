"""What a run leaves for a person: curves, pictures and tables of results."""

from .results import finish

__all__ = ["finish"]
