"""Prediction on images: the predictor, and the body of predict.py."""

from .command_line import argument_parser, find_images, main
from .predictor import Predictor, build_predictor, run_files

__all__ = ["Predictor", "argument_parser", "build_predictor", "find_images", "main", "run_files"]
