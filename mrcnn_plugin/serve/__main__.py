"""python -m mrcnn_plugin.serve --run FOLDER | --model FILE"""

import sys

from mrcnn_plugin.errors import ConfigError, DatasetError

from .command_line import argument_parser, main

if __name__ == "__main__":
    try:
        main(argument_parser().parse_args())
    except (ConfigError, DatasetError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
