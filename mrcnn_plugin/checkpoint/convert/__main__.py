"""python -m mrcnn_plugin.checkpoint.convert"""

import sys

from .command_line import main

sys.exit(main())
