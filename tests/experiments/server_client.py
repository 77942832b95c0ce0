"""A client of `experiments.serve`: forms with a file, in pieces where a test wants that."""

import http.client
import json
from typing import NamedTuple

BOUNDARY = "boundary"


class Answer(NamedTuple):
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


def form(data: bytes, name: str = "photo.jpg", field: str = "image") -> tuple[bytes, dict]:
    """A multipart form with one file, and its headers."""
    body = opening(name, field) + data + f"\r\n--{BOUNDARY}--\r\n".encode()
    return body, {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def opening(name: str = "photo.jpg", field: str = "image") -> bytes:
    """What comes before the file in such a form."""
    disposition = f'form-data; name="{field}"; filename="{name}"'
    return f"--{BOUNDARY}\r\ncontent-disposition: {disposition}\r\n\r\n".encode()


def ask(port: int, method: str = "GET", path: str = "/", body=None, headers=None, timeout: float = 60) -> Answer:
    """The whole answer to a request on a connection of its own. An iterable body is sent in chunks."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body, headers or {}, encode_chunked=not isinstance(body, (bytes, type(None))))
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def post(port: int, data: bytes, name: str = "photo.jpg", query: str = "", **headers) -> Answer:
    """The answer to a photo. Header names are written with underscores."""
    body, own = form(data, name)
    more = {key.replace("_", "-"): value for key, value in headers.items()}
    return ask(port, "POST", f"/predict{query}", body, own | more)
