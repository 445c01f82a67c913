"""LazyConfig files, installed as `mrcnn_plugin.configs`; see `mrcnn_plugin.model_zoo`."""
