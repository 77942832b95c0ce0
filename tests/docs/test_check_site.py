"""Finds everything that a page loads from another host. Links to other hosts are allowed."""

import pytest

from tests.docs.check_site import remote_loads


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//cdn.example/x.css">',
        '<link rel="preconnect" href="https://fonts.example" crossorigin>',
        '<img src="http://cdn.example/x.png">',
        '<img srcset="x.png 1x, https://cdn.example/x.png 2x">',
        "<style>@import 'https://fonts.example/x.css';</style>",
        '<div style="background: url(https://cdn.example/x.png)"></div>',
    ],
)
def test_loads_from_other_hosts_are_found(tmp_path, text):
    (tmp_path / "page.html").write_text(f"<html><body>{text}</body></html>")
    assert len(remote_loads(tmp_path)) == 1


def test_links_and_local_files_are_not(tmp_path):
    (tmp_path / "page.html").write_text(
        '<a href="https://example.org">a link</a><img src="data:image/png;base64,AAAA"><script src="../x.js"></script>'
        '<link rel="canonical" href="https://example.org/page"><link rel="stylesheet" href="assets/x.css">'
    )
    assert remote_loads(tmp_path) == []


def test_style_sheets_are_read(tmp_path):
    (tmp_path / "x.css").write_text("@font-face { src: url('https://fonts.example/x.woff2') }")
    assert [address for _, address in remote_loads(tmp_path)] == ["https://fonts.example/x.woff2"]
