"""A server on this machine that answers as the Hugging Face Hub does, for data sets and models, with uploads."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """A server with repositories: name -> revision -> file -> content."""

    def __init__(self, repositories: dict[str, dict[str, dict[str, bytes]]]) -> None:
        self.repositories = repositories
        self.downloads: list[str] = []
        self.private: dict[str, bool] = {}
        self.refuses_uploads = False
        self.is_down = False
        own = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                own.answer(self, True)

            def do_HEAD(self) -> None:
                own.answer(self, False)

            def do_POST(self) -> None:
                own.receive(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler, with_body: bool) -> None:
        if self.is_down:
            request.close_connection = True
            request.connection.close()
            return
        path = request.path.partition("?")[0]
        kind, _, rest = path.strip("/").partition("/")
        status, body, headers = 404, b"{}", {"X-Error-Code": "RepoNotFound"}
        if kind == "api":
            _, _, rest = rest.partition("/")  # after "datasets" or "models"
            name, _, end = rest.partition("/revision/")
            name, _, tree = (name if end else rest).partition("/tree/")
            files = self.files(name, (end or tree).replace("%2F", "/"))
            if name in self.repositories and files is None:
                headers = {"X-Error-Code": "RevisionNotFound"}
            if files is not None and end:
                listed = [{"rfilename": file} for file in files]
                status, headers, body = 200, {}, json.dumps({"id": name, "sha": COMMIT, "siblings": listed}).encode()
            elif files is not None:
                entries = [
                    {"type": "file", "path": f, "size": len(c), "oid": f"{i:040d}"}
                    for i, (f, c) in enumerate(files.items())
                ]
                status, headers, body = 200, {}, json.dumps(entries).encode()
        elif "/resolve/" in path:
            name, _, end = path.strip("/").removeprefix("datasets/").partition("/resolve/")
            revision, _, file = end.partition("/")
            files = self.files(name, revision) or {}
            if file in files:
                if with_body:
                    self.downloads.append(file)
                body = files[file]
                etag = f'"{sorted(files).index(file):040d}"'
                status, headers = 200, {"ETag": etag, "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        request.send_response(status)
        for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(body))} | headers).items():
            request.send_header(name, value)
        request.end_headers()
        if with_body:
            request.wfile.write(body)

    def receive(self, request: BaseHTTPRequestHandler) -> None:
        """Create a repository, or take the files of a commit."""
        content = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        path = request.path.partition("?")[0].strip("/").removeprefix("api/")
        status, answer = 200, {}
        if self.refuses_uploads:
            status, answer = 403, {"error": "no right to write"}
        elif path == "repos/create":
            found = json.loads(content)
            name = f"{found['organization']}/{found['name']}" if found.get("organization") else f"me/{found['name']}"
            self.repositories.setdefault(name, {"main": {}})
            self.private[name] = found.get("visibility") == "private" or bool(found.get("private"))
            answer = {"url": f"{self.endpoint}/{name}", "name": name}
        elif "/preupload/" in path:
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(content)["files"]]
            answer = {"files": [{**file, "shouldIgnore": False, "oid": None} for file in files]}
        elif "/commit/" in path:
            name = path.removeprefix("models/").partition("/commit/")[0]
            for line in content.splitlines():
                part = json.loads(line)
                if part["key"] == "file":
                    value = part["value"]
                    self.repositories[name]["main"][value["path"]] = base64.b64decode(value["content"])
            answer = {"commitUrl": f"{self.endpoint}/{name}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
        body = json.dumps(answer).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def files(self, name: str, revision: str) -> dict[str, bytes] | None:
        revisions = self.repositories.get(name, {})
        return revisions.get("main" if revision == COMMIT else revision)


@contextmanager
def connected(running: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Have the Hub's client use this server and an empty cache. The server ends with the block."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", running.endpoint)
    template = running.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    yield running
    running.server.shutdown()
    running.server.server_close()
