"""Prediction on images and videos: the predictor, and the body of predict.py."""

from .command_line import argument_parser, main
from .exported import ExportedPredictor
from .inputs import find_inputs
from .predictor import Predictor, build_predictor, run_files

__all__ = [
    "ExportedPredictor",
    "Predictor",
    "argument_parser",
    "build_predictor",
    "find_inputs",
    "main",
    "run_files",
]
