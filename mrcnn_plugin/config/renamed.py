"""Components under the names that run folders of former releases know them by."""

#: Module of a former release -> module that holds its components now.
MODULES = {
    "mrcnn_plugin.solver": "mrcnn_plugin.config.optimizer",
}


def current_name(name: str) -> str:
    """The dotted name of a component today; names that never changed are returned as they are."""
    module, _, attribute = name.rpartition(".")
    return f"{MODULES[module]}.{attribute}" if module in MODULES else name
