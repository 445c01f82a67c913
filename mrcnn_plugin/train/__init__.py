"""The train loop, its hooks and its processes: thin around Detectron2's own engine."""

from .arguments import argument_parser
from .loop import main
from .processes import launch, run

__all__ = ["argument_parser", "launch", "main", "run"]
