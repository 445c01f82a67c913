# Before any test imports Detectron2: mrcnn_plugin applies what it needs on a current stack.
import mrcnn_plugin  # noqa: F401
