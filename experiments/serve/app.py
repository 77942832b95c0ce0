"""The addresses of the server: the page, its style and script, the list of runs, and predictions."""

from __future__ import annotations

import asyncio
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from backbones.errors import BadInput
from data.images import check_pixels
from engine.system_errors import explain
from experiments.serve.answers import Runs
from experiments.serve.config import ServeConfig
from experiments.serve.requests import RETRY_SECONDS, OwnPages, Waiting, read_upload

PAGE = Path(__file__).parent / "page"
LONGEST_NAME = 100  # characters of a file name that results repeat
CLIENT_LEFT = 499  # status of a response that nobody reads, as in nginx

log = logging.getLogger(__name__)


class Server:
    """Answers requests with the predictions of runs, one image at a time.

    Attributes:
        app: the ASGI application.
        answered: number of images that were predicted.

    Args:
        runs: the runs.
        config: checked settings.
        address: of the server, for messages.
    """

    def __init__(self, runs: Runs, config: ServeConfig, address: str) -> None:
        self.runs, self.config, self.address = runs, config, address
        self.answered = 0
        self.waiting = Waiting(config.waiting)
        self._turn = asyncio.Lock()  # held by the request whose image is predicted; others wait in their order
        self._worker = ThreadPoolExecutor(1)
        self._page = _render(runs.describe(), config)
        self.app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        self.app.add_api_route("/", self.page)
        self.app.add_api_route("/page.css", self.file)
        self.app.add_api_route("/page.js", self.file)
        self.app.add_api_route("/runs", self.list_runs)
        self.app.add_api_route("/predict", self.predict, methods=["POST"])
        self.app.exception_handler(HTTPException)(self._refuse)
        self.app.exception_handler(RequestValidationError)(self._refuse_value)
        self.app.add_exception_handler(ClientDisconnect, _ignore)
        self.app.add_middleware(OwnPages, origins=config.origins)

    async def page(self) -> Response:
        """The page."""
        return Response(self._page, media_type="text/html")

    async def file(self, request: Request) -> Response:
        """Its style and its script."""
        name = PurePosixPath(request.url.path).name
        kind = "text/css" if name.endswith(".css") else "text/javascript"
        return Response((PAGE / name).read_bytes(), media_type=kind)

    async def list_runs(self) -> JSONResponse:
        """The runs."""
        return JSONResponse(self.runs.describe())

    async def predict(self, request: Request, pictures: bool = False) -> Response:
        """The predictions for the image in the field `image` of a form, see `Runs.answer`."""
        with self.waiting.place():
            upload = await read_upload(request, self.config.max_megabytes * 1_000_000, f"{self.address}/predict")
            try:
                async with self._turn:
                    if await request.is_disconnected():
                        return Response(status_code=CLIENT_LEFT)
                    data = await upload.read()
                    work = asyncio.get_running_loop().run_in_executor(
                        self._worker, self._answer, data, _plain(upload.filename), pictures
                    )
                    # A cancelled request must not let the next one start while its image is still predicted.
                    body = await asyncio.shield(work)
            finally:
                await upload.close()
            self.answered += 1
            return Response(body, media_type="application/json")

    def close(self) -> None:
        """End the worker."""
        self._worker.shutdown()

    def _answer(self, data: bytes, name: str, pictures: bool) -> bytes:
        try:
            check_pixels(data, name, self.runs.max_pixels)
        except BadInput as error:
            raise HTTPException(413, _line(error)) from error
        try:
            return json.dumps(self.runs.answer(data, name, pictures), allow_nan=False).encode()
        except BadInput as error:
            raise HTTPException(415, _line(error)) from error
        except (RuntimeError, MemoryError) as error:
            known = explain(error)
            if known is None:
                raise
            log.warning("%s: %s", name, known)
            raise HTTPException(503, _line(known), {"Retry-After": str(RETRY_SECONDS)}) from error

    async def _refuse(self, request: Request, error: HTTPException) -> Response:
        return JSONResponse({"detail": error.detail}, error.status_code, headers=error.headers)

    async def _refuse_value(self, request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return await self._refuse(request, HTTPException(400, f"{first['loc'][-1]}: {first['msg']}"))


async def _ignore(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)


def _render(runs: list[dict[str, Any]], config: ServeConfig) -> str:
    environment = Environment(loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html").render(runs=runs, max_megabytes=config.max_megabytes)


def _plain(name: str | None) -> str:
    """The file's name without folders and control characters."""
    last = PurePosixPath((name or "").replace("\\", "/")).name
    return "".join(c if c.isprintable() else "?" for c in last)[-LONGEST_NAME:] or "image"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
