"""Offers a page of gradio at an address, with nothing that would need a network."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import gradio as gr

from mrcnn_plugin.errors import ConfigError, first_line

# The reader's own: gradio's default fonts come from a server.
_FONT, _MONOSPACED = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
#: Larger uploads are refused by the page.
MOST_BYTES = 200 * 2**20


@contextlib.contextmanager
def serve(page: gr.Blocks, host: str, port: int) -> Iterator[str]:
    """Offers the page within the block; gives its address.

    Args:
        port: 0 takes a free one.

    Raises:
        ConfigError: the address cannot be listened at.
    """
    port = _listenable(host, port)
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            theme=gr.themes.Default(font=_FONT, font_mono=_MONOSPACED),
            max_file_size=MOST_BYTES,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            run_history=False,
            enable_monitoring=False,
            show_error=True,
            footer_links=[],
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"--host {host} --port {port}: {first_line(error)}") from error
    try:
        yield address
    finally:
        page.close(verbose=False)


def _listenable(host: str, port: int) -> int:
    """The port, or a free one for 0, where this address can be listened at.

    Raises:
        ConfigError: it cannot.
    """
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return probe.getsockname()[1]
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"--host {host} --port {port}: {first_line(error).rstrip('.')}; --port 0 takes a free port"
        ) from error
