"""Where weights may come from beyond files and URLs: installed Python packages, and timm's collection.

`package://NAME` is the one weight file that the installed package NAME holds, `package://NAME/PATH` a file of
it by its path inside the package. The package is located, not imported: none of its code runs.

`timm://NAME` is the file that timm downloads for its model NAME ("resnet50d.ra2_in1k"), kept where the
Hugging Face hub keeps its files.
"""

from __future__ import annotations

import importlib.machinery
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.modeling.timm_backbone import import_timm

logger = logging.getLogger(__name__)

#: What this module adds to the paths that Detectron2 knows.
SCHEMES = ("package://", "timm://")

_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".pkl")


class _LocatedWeights(PathHandler):
    """A prefix whose paths stand for local files that are read only."""

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return Path(self._get_local_path(path, **kwargs)).is_file()

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return self._isfile(path, **kwargs)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        if any(letter in mode for letter in "wax+"):
            raise OSError(f"{path} can only be read, got mode {mode!r}")
        return open(self._get_local_path(path), mode, buffering)


class PackageWeights(_LocatedWeights):
    """`package://NAME[/PATH]`: a weight file inside an installed Python package."""

    def _get_supported_prefixes(self) -> list[str]:
        return [SCHEMES[0]]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        name, _, inside = path.removeprefix("package://").partition("/")
        folders = _package_folders(name)
        if not folders:
            raise ConfigError(
                f"{path}: no Python package {name!r} is installed; pip install {name.replace('_', '-')}"
            )
        if inside:
            file = next((f / inside for f in folders if (f / inside).is_file()), None)
            if file is None:
                raise ConfigError(f"{path}: the package has no file {inside!r}")
            return str(file)
        files = sorted(_weight_files(folders))
        if len(files) != 1:
            shown = ", ".join(f"package://{name}/{relative}" for relative, _ in files) or "none"
            raise ConfigError(f"{path}: expected one weight file in the package, found {shown}")
        return str(files[0][1])


def _package_folders(name: str) -> list[Path]:
    # What an import would find, without what an import of a dotted name runs: the parent's code.
    if not name.isidentifier():
        return []
    spec = importlib.machinery.PathFinder.find_spec(name)
    return [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]


def _weight_files(folders: list[Path]) -> Iterator[tuple[str, Path]]:
    for folder in folders:
        for file in folder.rglob("*"):
            if file.suffix in _SUFFIXES and file.is_file():
                yield file.relative_to(folder).as_posix(), file


class TimmWeights(_LocatedWeights):
    """`timm://NAME`: the weights that timm downloads for a model, with or without a tag."""

    def _get_supported_prefixes(self) -> list[str]:
        return [SCHEMES[1]]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        name = path.removeprefix("timm://")
        timm = import_timm()
        try:
            cfg = timm.get_pretrained_cfg(name)
        except RuntimeError as error:
            raise ConfigError(f"{path}: {error}") from error
        if cfg is None or not (cfg.hf_hub_id or cfg.url):
            raise ConfigError(
                f"{path}: timm has no weights of that name; timm.list_pretrained() lists those it has"
            )
        if cfg.custom_load:
            raise ConfigError(f"{path}: these weights are not in PyTorch's form; take another tag")
        logger.info(f"{path}: licence {cfg.license or 'not stated'}")
        return _from_hub(path, cfg) if cfg.hf_hub_id else PathManager.get_local_path(cfg.url, force=force)


def _from_hub(path: str, cfg: Any) -> str:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    repository, _, revision = cfg.hf_hub_id.partition("@")
    given = cfg.hf_hub_filename or "pytorch_model.bin"
    safe = (
        "model.safetensors" if given == "pytorch_model.bin" else str(Path(given).with_suffix(".safetensors"))
    )
    for file in dict.fromkeys([safe, given]):
        try:
            return hf_hub_download(repository, file, revision=revision or None)
        except LocalEntryNotFoundError as error:
            raise ConfigError(
                f"{path}: {repository}/{file} is not in the cache and cannot be downloaded; without network "
                "copy the file here and give its path"
            ) from error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as error:
            raise ConfigError(f"{path}: {repository}/{file}: {str(error).splitlines()[0]}") from error
    raise ConfigError(f"{path}: the repository {repository} has neither {safe} nor {given}")


for _handler in (PackageWeights(), TimmWeights()):
    PathManager.register_handler(_handler, allow_override=True)
