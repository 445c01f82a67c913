"""Configs: found, loaded, overridden, and adapted once to what a run needs of them."""

from .fitting import dataset_metadata, fit_to_dataset, fit_to_device
from .loading import find_config, load_config
from .run_config import CocoResults, DataExpectations, Results, RunConfig, TestSet

__all__ = [
    "CocoResults",
    "DataExpectations",
    "Results",
    "RunConfig",
    "TestSet",
    "dataset_metadata",
    "find_config",
    "fit_to_dataset",
    "fit_to_device",
    "load_config",
]
