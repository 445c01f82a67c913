#!/usr/bin/env python3
"""Trains or evaluates a config: see --help."""

import sys

from mrcnn_plugin.train import argument_parser, main, run

if __name__ == "__main__":
    args = argument_parser().parse_intermixed_args()
    sys.exit(run(main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, (args,)))
