"""The train loop, its hooks, inference and plots: thin around Detectron2's own engine."""

from .arguments import argument_parser
from .config import find_config, load_config
from .errors import ConfigError
from .launch import launch, run
from .train import main

__all__ = ["ConfigError", "argument_parser", "find_config", "launch", "load_config", "main", "run"]
