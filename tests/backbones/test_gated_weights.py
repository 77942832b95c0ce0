"""Weights behind a licence page: the message names the page and how to log in, before the first training."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants

from backbones import create_backbone, weights
from backbones.errors import BadInput, with_flags
from experiments.compare import __main__ as compare
from tests.commands import fails

NAME = "convnext_tiny.dinov3_lvd1689m"


class Gated(BaseHTTPRequestHandler):
    """Answers as the Hugging Face hub does for a repository with a licence page, without and with a token."""

    def do_HEAD(self) -> None:
        is_repository = "/resolve/" in self.path
        self.send_response((403 if "Authorization" in self.headers else 401) if is_repository else 200)
        if is_repository:
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("X-Error-Message", "Access to this model is restricted")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub on this machine, and empty caches."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gated)
    Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    for module, names in ((constants, ("ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_CACHE")), (weights, ("ENDPOINT",))):
        for name in names:
            value = {"ENDPOINT": endpoint, "HF_HUB_OFFLINE": False, "HF_HUB_CACHE": str(tmp_path / "hub")}[name]
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(weights, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("token", [None, "hf_no_such_token"])
def test_the_message_names_the_page_and_how_to_log_in(
    hub: None, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(BadInput) as caught:
        create_backbone(NAME, pretrained=True)
    message = with_flags(caught.value)
    for part in (f"'{NAME}'", f"https://huggingface.co/timm/{NAME}", "`hf auth login`", "HF_TOKEN", ".safetensors"):
        assert part in message


def test_a_comparison_reports_it_before_the_first_training(
    hub: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--tasks", "classification", "--backbones", "tf_efficientnet_lite0", NAME, "--output", tmp_path / "o")
    assert "licence page" in fails(capsys, 3, compare, *arguments, "--protocol", "linear")
    assert not (tmp_path / "o").exists()
