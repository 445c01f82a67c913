"""The command line of train_net.py."""

from __future__ import annotations

import argparse

_EPILOG = """\
Overrides follow the options: key=value for a LazyConfig (.py), KEY VALUE or KEY=VALUE for YAML.

  train_net.py --config-file configs/Shapes/mask_rcnn_R_18_FPN.py train.max_iter=300
  train_net.py --config-file FILE --resume                  continue after Ctrl-C or a crash
  train_net.py --config-file FILE --eval-only train.init_checkpoint=output/model_final.pth
  train_net.py --config-file FILE --num-gpus 8              or: torchrun --nproc-per-node 8 train_net.py ...
"""


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's own options; overrides may stand before, between and after them."""
    parser = argparse.ArgumentParser(
        prog="train_net.py",
        description="Train or evaluate a Detectron2 config.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file", default="", metavar="FILE", help="LazyConfig (.py) or YAML file, or name"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue from the run folder's last checkpoint"
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes on this machine")
    parser.add_argument("--num-machines", type=int, default=1, metavar="M", help="machines in all")
    parser.add_argument(
        "--machine-rank", type=int, default=0, metavar="R", help="this machine's number, from 0"
    )
    parser.add_argument(
        "--dist-url", default="auto", metavar="U", help="where processes meet; auto: a free local port"
    )
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")
    return parser
