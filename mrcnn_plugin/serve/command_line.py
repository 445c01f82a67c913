"""The body of python -m mrcnn_plugin.serve: a model in, a page in the browser out."""

from __future__ import annotations

import argparse
import contextlib
import os
import threading
from pathlib import Path

from mrcnn_plugin.compat.warnings import silence_warnings
from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.predict import Predictor, build_predictor, run_files
from mrcnn_plugin.predict.exported import ExportedPredictor
from mrcnn_plugin.predict.predictor import CHECKPOINTS, check_threshold

# The slider goes down to this score; a file's own threshold may be higher.
_LEAST_SCORE = 0.05
_EPILOG = """\
The page is offered to this machine alone, at 127.0.0.1; Ctrl-C ends it. --host 0.0.0.0 offers it, without a
password, to everyone who can reach this machine.

  python -m mrcnn_plugin.serve --run output/demo
  python -m mrcnn_plugin.serve --model demo.onnx --port 8000

Exit status: 0; 2 if the command line is wrong.
"""


def argument_parser() -> argparse.ArgumentParser:
    """The command line of `python -m mrcnn_plugin.serve`."""
    parser = argparse.ArgumentParser(
        prog="python -m mrcnn_plugin.serve",
        description="Show in the browser what a model finds in a picture.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", metavar="FOLDER", help="a run folder of train_net.py")
    which.add_argument("--model", metavar="FILE", help="a file that export.py wrote")
    parser.add_argument(
        "--checkpoint", choices=CHECKPOINTS, default="final", help="which weights of --run; default: final"
    )
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.5,
        metavar="S",
        help="where the slider stands at first; default 0.5",
    )
    parser.add_argument(
        "--trust-run",
        action="store_true",
        help="let a run folder's config run code that it names; only for folders that you trust as a program",
    )
    parser.add_argument("--device", help="cuda, cuda:1, cpu, ...; chosen when not given; with --run")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; default 127.0.0.1")
    parser.add_argument("--port", type=int, default=7860, help="default 7860; 0 takes a free one")
    return parser


def main(args: argparse.Namespace, stop: threading.Event | None = None) -> None:
    """Offers the page until Ctrl-C, or until `stop` is set.

    Raises:
        ConfigError, DatasetError: the command line is wrong, the port is taken, or gradio is not installed.
    """
    check_threshold(args.score_threshold)
    silence_warnings()
    # Before the model is loaded, which takes longer.
    serve, page_of = _gradio()
    predictor = _predictor(args)
    name = Path(args.run or args.model).resolve().name
    page = page_of(predictor, name, args.score_threshold)
    with serve(page, args.host, args.port) as address, contextlib.suppress(KeyboardInterrupt):
        print(f"{name}: {address} (Ctrl-C ends it)", flush=True)
        (stop or threading.Event()).wait()


def _gradio():
    """The module's functions that need gradio, which is an extra.

    Raises:
        ConfigError: it is not installed.
    """
    # Its import would report to its makers, and each start ask them for a newer version.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from .page import page_of
        from .server import serve
    except ImportError as error:
        raise ConfigError(
            f"the page needs what cannot be imported ({error}): pip install 'mrcnn_plugin[serve]'"
        ) from error
    return serve, page_of


def _predictor(args: argparse.Namespace) -> Predictor:
    """A predictor of all scores that the slider reaches."""
    if args.model:
        for option in ("device", "trust_run"):
            if getattr(args, option):
                raise ConfigError(f"--{option.replace('_', '-')} does not go with --model")
        if args.checkpoint != "final":
            raise ConfigError(f"--checkpoint {args.checkpoint} names weights of --run FOLDER")
        return ExportedPredictor(args.model)
    return build_predictor(
        *run_files(args.run, args.checkpoint),
        threshold=_LEAST_SCORE,
        device=args.device or "",
        trusted=args.trust_run,
    )
