"""Loads the runs, and answers requests until the process is asked to stop."""

from __future__ import annotations

import signal
import socket
from importlib.util import find_spec
from typing import Any

from backbones.errors import UserError
from engine.console import log_to_terminal, out
from engine.execution import execution_for
from experiments.serve.answers import Runs
from experiments.serve.config import LOOPBACK, ServeConfig

PACKAGES = ("fastapi", "uvicorn", "python_multipart")  # of the extra `serve`
KEPT_ALIVE = 5  # seconds that an idle connection stays open


def serve(config: ServeConfig) -> None:
    """Answer requests until SIGTERM or Ctrl-C. Requests that have arrived by then are answered before it returns."""
    config.check()
    if any(find_spec(name) is None for name in PACKAGES):
        raise UserError("serve needs further packages: python -m pip install 'backbone-swap[serve]'")
    import uvicorn

    from experiments.serve.app import Server

    log_to_terminal("experiments")
    execution_for("cpu", "fp32", "predict").begin()
    with listen(config) as listener:  # before the runs are loaded: a port in use is reported at once
        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        runs = Runs(config.runs, config.exif, config.max_megapixels * 1_000_000)
        server = Server(runs, config, address)
        settings = uvicorn.Config(
            server.app, http="h11", ws="none", lifespan="off", log_level="warning", access_log=False,
            proxy_headers=False, server_header=False, timeout_keep_alive=KEPT_ALIVE,
        )  # fmt: skip
        names = ", ".join(runs.runs)
        out.print(f"{names}: {address} (Ctrl-C stops)", markup=False)
        before = signal.signal(signal.SIGTERM, _leave)  # uvicorn raises the signal again after the last answer
        try:
            uvicorn.Server(settings).run(sockets=[listener])
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(_summary(server.answered)) from stop
        except SystemExit:
            out.print(_summary(server.answered))
        finally:
            signal.signal(signal.SIGTERM, before)
            server.close()


def listen(config: ServeConfig) -> socket.socket:
    """A listening socket. Raises UserError if the port cannot be used."""
    host = LOOPBACK[config.host]
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, config.port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise UserError(
            f"cannot listen at {host}, port {config.port}: {error.strerror}. Choose another with `port`",
            settings=("port",),
        ) from error
    return listener


def _leave(number: int, frame: Any) -> None:
    raise SystemExit(0)


def _summary(answered: int) -> str:
    return f"stopped after {answered} image{'' if answered == 1 else 's'}"
