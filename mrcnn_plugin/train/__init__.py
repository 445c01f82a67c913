"""Training and evaluation of a config, in one process or several: thin around Detectron2's own engine."""

from .command_line import argument_parser, main
from .evaluate import evaluate, evaluate_weights
from .loop import train
from .processes import launch, run

__all__ = ["argument_parser", "evaluate", "evaluate_weights", "launch", "main", "run", "train"]
