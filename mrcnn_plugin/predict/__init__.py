"""Prediction on images and videos: the predictor, and the body of predict.py."""

from .command_line import argument_parser, main
from .exported import ExportedPredictor
from .inputs import find_inputs
from .predictor import CHECKPOINTS, Predictor, build_predictor, named_files, run_files

__all__ = [
    "CHECKPOINTS",
    "ExportedPredictor",
    "Predictor",
    "argument_parser",
    "build_predictor",
    "find_inputs",
    "main",
    "named_files",
    "run_files",
]
