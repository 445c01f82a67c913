"""python -m mrcnn_plugin.reporting RESULTS.json ANNOTATIONS.json: report.html of any COCO results file."""

import sys

from .html.command_line import main

if __name__ == "__main__":
    sys.exit(main())
