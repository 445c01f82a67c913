"""Exported models where they run: one callable whatever the format. Imports no Detectron2."""

from .description import ModelDescription
from .detections import Detections
from .loading import FORMATS, load
from .model import ExportedModel

__all__ = ["FORMATS", "Detections", "ExportedModel", "ModelDescription", "load"]
