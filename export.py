#!/usr/bin/env python3
"""Writes a model as ONNX, OpenVINO, torch.export or AOTInductor file: see --help."""

import sys

from mrcnn_plugin.export.command_line import argument_parser, main
from mrcnn_plugin.train import run

if __name__ == "__main__":
    args = argument_parser().parse_args()
    sys.exit(run(main, 1, 1, 0, "auto", (args,)))
