"""A page in the browser that shows what a model finds in a picture: python -m mrcnn_plugin.serve."""

from .command_line import argument_parser, main

__all__ = ["argument_parser", "main"]
