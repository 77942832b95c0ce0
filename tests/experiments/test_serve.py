"""Tests the server: answers equal to those of `predict`, refused uploads and pages, the page in a browser, its end."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")

import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import Request

from experiments.serve import __main__ as serve
from experiments.serve import requests
from experiments.serve.answers import Runs
from experiments.serve.app import Server
from experiments.serve.config import ServeConfig
from experiments.serve.runner import listen
from tests.commands import fails, run
from tests.experiments.server_client import ask, form, opening, post

FIXTURES = Path(__file__).parents[1] / "fixtures"
RUNS = [str(FIXTURES / "v1" / task) for task in ("detection", "segmentation", "classification")]
PHOTO = FIXTURES / "v1/data/detection/val/val_00000.jpg"


@pytest.fixture(scope="module")
def server():
    """A server with three runs, in a thread; `port` is its attribute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FIXTURES)  # where the runs' backbone is
        config = ServeConfig(runs=RUNS, port=0, origins=["https://demo.example.org"], waiting=3)
        config.check()
        runs = Runs(config.runs, config.exif, config.max_megapixels * 1_000_000)
        found = Server(runs, config, "http://here")
        with listen(config) as listener:
            found.port = listener.getsockname()[1]
            asgi = uvicorn.Server(uvicorn.Config(found.app, lifespan="off", ws="none", log_level="warning"))
            thread = threading.Thread(target=asgi.run, args=([listener],))
            thread.start()
            yield found
            asgi.should_exit = True
            thread.join()
        found.close()


@pytest.mark.parametrize("task", ["detection", "segmentation", "classification"])
def test_records_are_those_of_predict(server, tmp_path, monkeypatch, task):
    monkeypatch.syspath_prepend(FIXTURES)
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(PHOTO) as image:
        image.crop((0, 0, 90, 60)).save(turned, exif=exif)
    run(import_module(f"{task}.predict"), "--checkpoint", FIXTURES / "v1" / task, "--images", turned, "--device", "cpu",
        "--output", tmp_path / "predictions")  # fmt: skip
    answer = post(server.port, turned.read_bytes(), "turned.jpg").json
    (found,) = [item for item in answer["runs"] if item["task"] == task]
    written = json.loads((tmp_path / "predictions" / "predictions.json").read_text())
    assert written
    assert found["predictions"] == written
    images = json.loads((tmp_path / "predictions" / "images.json").read_text())["images"]
    assert [answer["image"]] == images
    assert (answer["image"]["width"], answer["image"]["exif"]) == (60, "applied")
    assert found["milliseconds"] > 0
    assert "picture" not in found


def test_pictures_and_names(server):
    answer = post(server.port, PHOTO.read_bytes(), "C:\\photos\\a\tb.jpg", "?pictures=true").json
    assert answer["image"]["file_name"] == "a?b.jpg"
    assert [item["name"] for item in answer["runs"]] == ["detection", "segmentation", "classification"]
    assert all(item["picture"].startswith("data:image/jpeg;base64,") for item in answer["runs"])
    described = ask(server.port, path="/runs").json
    assert (described[0]["task"], described[0]["backbone"]) == ("detection", "tf_tiny:Tiny")
    assert len(described[0]["category_ids"]) == len(described[0]["classes"]) == 10


def bomb():
    """A PNG whose header states 2.5 gigapixels."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = (50_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    parts = chunk(b"IHDR", size), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.case("serve")
@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (b"hello", 415, "not an image"),
        (b"", 415, "empty"),
        (PHOTO.read_bytes()[:500], 415, "cannot decode"),
        (bomb(), 413, "50000 x 50000 pixels, more than the limit of 50 megapixels"),
    ],
    ids=["text", "empty", "cut", "bomb"],
)
def test_files_that_are_refused(server, data, status, message):
    answer = post(server.port, data)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    detail = answer.json["detail"]
    assert message in detail
    assert "photo.jpg" in detail
    assert "\n" not in detail


@pytest.mark.case("serve")
@pytest.mark.parametrize("with_length", [True, False])
def test_a_body_of_100_mb_is_refused(server, with_length):
    pieces, headers = [opening(), *[bytes(1_000_000)] * 100], form(b"")[1]
    body = b"".join(pieces) if with_length else iter(pieces)
    answer = ask(server.port, "POST", "/predict", body, headers)
    assert (answer.status, answer.json["detail"]) == (413, "the upload is larger than the limit of 32 MB")


@pytest.mark.case("serve")
def test_a_large_body_is_not_kept():
    """Reading stops at the limit: the pieces after it are not asked for."""
    pieces = 0

    async def receive():
        nonlocal pieces
        pieces += 1
        body = opening() if pieces == 1 else bytes(100_000)
        return {"type": "http.request", "body": body, "more_body": True}

    headers = [(b"content-type", form(b"")[1]["content-type"].encode())]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    with pytest.raises(HTTPException) as refused:
        asyncio.run(requests.read_upload(request, 1_000_000, ""))
    assert refused.value.status_code == 413
    assert pieces <= 12


def test_a_slow_upload_is_refused(monkeypatch):
    monkeypatch.setattr(requests, "UPLOAD_SECONDS", 0.05)

    async def receive():
        await asyncio.sleep(9)

    headers = [(b"content-type", form(b"")[1]["content-type"].encode())]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    with pytest.raises(HTTPException) as refused:
        asyncio.run(requests.read_upload(request, 1000, ""))
    assert refused.value.status_code == 408


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "message"),
    [
        ("POST", "/predict", b"a=b", {"content-type": "application/x-www-form-urlencoded"}, 400, "-F image=@FILE"),
        ("POST", "/predict", b"a=b", {"content-type": "multipart/form-data"}, 400, "boundary"),
        ("POST", "/predict", form(b"x", field="file")[0], form(b"")[1], 400, "-F image=@FILE http://here/predict"),
        ("POST", "/predict?pictures=7", *form(b"x"), 400, "pictures"),
        ("GET", "/predict", None, {}, 405, "Not Allowed"),
        ("GET", "/page/page.html", None, {}, 404, "Not Found"),
        ("GET", "/..%2fapp.py", None, {}, 404, "Not Found"),
        ("GET", "/docs", None, {}, 404, "Not Found"),  # FastAPI's page loads scripts from elsewhere
    ],
)  # fmt: skip
def test_requests_that_are_refused(server, method, path, body, headers, status, message):
    answer = ask(server.port, method, path, body, headers)
    assert (answer.status, message in answer.json["detail"]) == (status, True)


@pytest.mark.case("serve")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # a program
        ({"origin": "http://127.0.0.1:PORT"}, 200),
        ({"host": "localhost:PORT", "origin": "http://localhost:PORT"}, 200),
        ({"host": "demo.example.org", "origin": "https://demo.example.org"}, 200),  # of --origins
        ({"origin": "https://demo.example.org"}, 200),  # a proxy that names this machine as host
        ({"origin": "http://127.0.0.1:1"}, 403),  # a page of another server here
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.example:PORT"}, 403),  # a name that resolves to 127.0.0.1
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "evil.example", "origin": "http://evil.example"}, 403),
        ({"host": "[::1"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-origin"}, 200),
    ],
)
def test_other_web_pages_are_refused(server, headers, status):
    headers = {name: value.replace("PORT", str(server.port)) for name, value in headers.items()}
    answer = post(server.port, PHOTO.read_bytes(), **headers)
    assert answer.status == status
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    if status == 403:
        assert answer.json["detail"].startswith("refused: ")
        assert "access-control-allow-origin" not in answer.headers


def test_too_many_requests_are_asked_to_come_later(server, monkeypatch):
    started, finish = threading.Event(), threading.Event()

    def blocked(*arguments):
        started.set()
        finish.wait(30)
        return b"{}"

    monkeypatch.setattr(server, "_answer", blocked)
    with ThreadPoolExecutor(3) as clients:
        accepted = [clients.submit(post, server.port, PHOTO.read_bytes()) for _ in range(3)]
        started.wait(30)
        while server.waiting.count < 3:
            time.sleep(0.01)
        refused = post(server.port, PHOTO.read_bytes())
        page = ask(server.port)
        finish.set()
        assert [future.result().status for future in accepted] == [200, 200, 200]
    assert (refused.status, refused.headers["retry-after"]) == (503, "2")
    assert page.status == 200
    assert server.waiting.count == 0


def test_settings_that_are_refused(capsys, tmp_path, server):
    message = fails(capsys, 2, serve, "--runs", RUNS[0], "--host", "0.0.0.0")
    assert "this machine only" in message
    assert "proxy" in message
    assert "--runs is required" in fails(capsys, 2, serve)
    assert "--origins" in fails(capsys, 2, serve, "--runs", RUNS[0], "--origins", "demo.example.org/x")
    message = fails(capsys, 2, serve, "--runs", RUNS[0], "--port", server.port)
    assert (
        f"cannot listen at 127.0.0.1, port {server.port}: Address already in use. Choose another with --port" in message
    )
    assert "neither a checkpoint nor a run folder" in fails(capsys, 3, serve, "--runs", tmp_path, "--port", 0)
    assert "more than once" in fails(capsys, 3, serve, "--runs", RUNS[0], RUNS[0], "--port", 0)


CONTRAST = """
const channels = (text) => text.match(/[\\d.]+/g).map(Number);
const light = (color) => channels(color).slice(0, 3).map((c) => c / 255)
  .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (e) => { const c = getComputedStyle(e).backgroundColor;
  return channels(c)[3] === 0 ? ground(e.parentElement) : c; };
return [...document.querySelectorAll("h1, h2, label, p, li, input")].filter((e) => e.innerText || e.value)
  .map((e) => [light(getComputedStyle(e).color), light(ground(e))].sort((a, b) => b - a))
  .map(([a, b]) => (a + 0.05) / (b + 0.05));
"""


def test_page_in_a_browser(browser, server, tmp_path):
    def text(name):
        return browser.execute_script(f"return document.getElementById('{name}').innerText")

    def until(condition):
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, (text("status"), text("error"))
            time.sleep(0.05)

    page = f"http://127.0.0.1:{server.port}/"
    browser.get_log("performance")
    browser.get(page)
    switch = browser.switch_to
    from selenium.webdriver.common.keys import Keys

    switch.active_element.send_keys(Keys.TAB)  # the first stop of a keyboard is the field
    field = switch.active_element
    assert field.get_attribute("id") == "image"
    assert field.accessible_name == "Photo"
    assert browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    field.send_keys(str(PHOTO))
    until(lambda: " ms" in text("status"))
    assert re.match(r"val_00000.jpg, 96 × 96 px: detection [\d.]+ ms, segmentation", text("status"))
    pictures = browser.execute_script("return [...document.images].map((i) => [i.hidden, i.naturalWidth, i.alt])")
    assert [(hidden, width > 400) for hidden, width, _ in pictures] == [(False, True)] * 3
    assert pictures[2][2].startswith("Predictions of classification: ")
    assert browser.execute_script("return document.querySelectorAll('section')[2].querySelectorAll('li').length") == 5
    roles = "return ['status', 'error'].map((id) => document.getElementById(id).getAttribute('role'))"
    assert browser.execute_script(roles) == ["status", "alert"]  # a screen reader says their new texts
    for scheme in ("light", "dark"):
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        ratios = browser.execute_script(CONTRAST)
        assert len(ratios) > 12
        assert min(ratios) >= 4.5  # WCAG 2.2, level AA
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

    problems = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert not problems
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert {url for url in urls if not url.startswith("data:")} == {
        page, f"{page}page.css", f"{page}page.js", f"{page}predict?pictures=true"}  # fmt: skip

    # A dropped text file: its error is shown, and the pictures of the last photo are gone.
    drop = """const files = new DataTransfer(); files.items.add(new File(["hello"], "text.jpg"));
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));"""
    browser.execute_script(drop)
    until(lambda: text("error"))
    assert "cannot decode image text.jpg" in text("error")
    assert browser.execute_script("return [...document.images].every((i) => i.hidden)")
    assert browser.execute_script("return document.getElementById('image').files[0].name") == "text.jpg"
    (tmp_path / "large.jpg").write_bytes(bytes(33_000_000))
    browser.execute_script("return document.getElementById('image')").send_keys(str(tmp_path / "large.jpg"))
    until(lambda: "larger than the limit of 32 MB" in text("error"))

    metrics = {"width": 360, "height": 640, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [360, 360]
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def resident_mb(process):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[1]) / 1000


@pytest.mark.case("serve")
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_load_and_stop(amount, measured, stop, code):
    """Eight clients for two minutes: memory does not grow; no request that the server accepted is lost at its end."""
    seconds = amount(5, 120) if stop == signal.SIGTERM else 5
    paths = [str(Path(__file__).parents[2]), str(FIXTURES)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([sys.executable, "-m", "experiments.serve", "--port", "0", "--runs", *RUNS],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)  # fmt: skip
    port = int(re.search(r":(\d+) ", process.stdout.readline())[1])
    stopped = threading.Event()
    photos = sorted((FIXTURES / "v1/data").rglob("val/**/*.jpg"))

    def client(number):
        """Counts of answers, and of requests that were sent and not answered."""
        answered, lost = 0, 0
        while True:
            try:
                answer = post(port, photos[(number + answered) % len(photos)].read_bytes(), query="?pictures=true")
            except ConnectionRefusedError:
                return answered, lost
            except OSError:
                if not stopped.is_set():
                    raise
                lost += 1
                continue
            assert answer.status == 200
            assert len(answer.json["runs"]) == 3
            answered += 1

    with ThreadPoolExecutor(8) as clients:
        running = [clients.submit(client, number) for number in range(8)]
        time.sleep(max(3, seconds / 4))
        before = resident_mb(process.pid)
        time.sleep(3 * seconds / 4)
        after = resident_mb(process.pid)
        stopped.set()
        process.send_signal(stop)
        counts = [future.result() for future in running]
    out, err = process.communicate(timeout=60)
    answered = sum(count for count, _ in counts)
    assert process.returncode == code
    assert f"stopped after {answered} images" in out + err
    assert "Traceback" not in out + err
    assert [lost for _, lost in counts] == [0] * 8
    assert after - before < 50
    measured(f"{answered} requests of 8 clients in {seconds} s, {before:.0f} MB then {after:.0f} MB, none lost")
