"""python -m mrcnn_plugin.data.convert"""

import sys

from .command_line import main

sys.exit(main())
