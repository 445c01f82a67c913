# First, since it mends Detectron2 for the installed libraries.
import mrcnn_plugin  # noqa: F401
