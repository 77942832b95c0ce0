"""What a request has to satisfy before its photo is predicted: who sends it, its size, and how many wait.

Any web page in the browser of this machine can send requests to it, also by a host name of its own that resolves to
127.0.0.1. So the header `Host` must name this machine, and the header `Origin`, which browsers set and pages cannot
change, the page of this server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from experiments.serve.config import LOOPBACK

UPLOAD_SECONDS = 60.0  # an upload that takes longer is refused
DISCARD_SECONDS = 10.0  # how long the rest of a refused upload is read
RETRY_SECONDS = 2  # when a client may try again
HEADERS = {
    # The page loads nothing from elsewhere. Its pictures are data: addresses, and no other page may embed it.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class Body:
    """The body of a request: passes its messages on, and drops what is left of it before a refusal.

    Otherwise the connection would be reset while the client sends, and it would not see the refusal.
    """

    def __init__(self, receive: Receive, headers: Headers) -> None:
        self._receive = receive
        # A client that waits for the permission to send (Expect: 100-continue) sees the refusal at once.
        self._is_sent = "expect" not in headers

    async def __call__(self) -> Message:
        """The next message. It permits a waiting client to send."""
        message = await self._receive()
        self._is_sent = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def drop(self) -> None:
        """Read the rest, for `DISCARD_SECONDS` at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS):
                while self._is_sent:
                    await self()


class OwnPages:
    """Middleware that refuses requests of other web pages, and adds `HEADERS` to all responses.

    Args:
        app: answers the other requests.
        origins: further addresses of this server's page, such as https://demo.example.org.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str] = ()) -> None:
        self.app, self.origins = app, frozenset(origins)
        self.hosts = {urlsplit(origin).netloc.lower() for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        body = Body(receive, headers)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] >= 400:
                    await body.drop()
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        reason = self._refusal(headers)
        answer = self.app if reason is None else JSONResponse({"detail": reason}, 403)
        await answer(scope, body, with_headers)

    def _refusal(self, headers: Headers) -> str | None:
        """Why a request is refused; None for one of this server's page, and of a program such as curl."""
        host = headers.get("host", "").lower()
        if host not in self.hosts and not _names_this_machine(host):
            return f"refused: the host {host!r} is not an address of this server. See --origins"
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}" and origin not in self.origins:
            return f"refused: the request comes from the web page {origin!r}. See --origins"
        if (
            origin is None
            and headers.get("sec-fetch-site") == "cross-site"
            and headers.get("sec-fetch-mode") != "navigate"
        ):
            return "refused: the request comes from another web page. See --origins"
        return None


def _names_this_machine(host: str) -> bool:
    try:
        return urlsplit(f"//{host}").hostname in LOOPBACK
    except ValueError:
        return False


class Waiting:
    """Counts the requests in progress.

    Attributes:
        most: largest number at a time.
        count: current number.
    """

    def __init__(self, most: int) -> None:
        self.most, self.count = most, 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place in the block. Raises HTTPException 503 if there is none."""
        if self.count >= self.most:
            detail = f"{self.count} requests are waiting: try again in {RETRY_SECONDS} seconds"
            raise HTTPException(503, detail, {"Retry-After": str(RETRY_SECONDS)})
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


async def read_upload(request: Request, limit: int, address: str) -> UploadFile:
    """The file in the field `image` of a multipart form, of at most `limit` bytes; the caller closes it.

    Larger files are stored in a temporary file while they arrive. Raises HTTPException: 413 as soon as the upload is
    larger, 408 if it takes longer than `UPLOAD_SECONDS`, and 400 for anything but such a form.
    """
    stated = request.headers.get("content-length", "0")
    too_large = HTTPException(413, f"the upload is larger than the limit of {limit / 1e6:.0f} MB")
    if not stated.isdecimal() or int(stated) > limit:
        raise too_large
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise too_large
        return message

    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            form = await Request(request.scope, receive).form(max_files=1, max_fields=8)
    except TimeoutError as error:
        raise HTTPException(408, f"the upload took longer than {UPLOAD_SECONDS:.0f} seconds") from error
    image = form.get("image")
    if not isinstance(image, UploadFile):
        await form.close()
        raise HTTPException(400, f"send the image as the field `image` of a form: curl -F image=@FILE {address}")
    return image
