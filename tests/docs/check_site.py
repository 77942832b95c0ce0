"""`python -m tests.docs.check_site FOLDER`: fails if a page of the built site loads anything from another host."""

import argparse
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

LOADING = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
}
LOADED_LINKS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "manifest"}
REMOTE = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)
IN_CSS = re.compile(r"(?:url\(|@import)\s*['\"]?\s*((?:https?:)?//[^'\")\s]+)", re.IGNORECASE)


class Loads(HTMLParser):
    """Addresses that a browser fetches to show a page; links that a reader may follow are not among them."""

    def __init__(self, text):
        super().__init__()
        self.found = IN_CSS.findall(text)
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Collect remote addresses of one element."""
        values = {name: value or "" for name, value in attrs}
        address = values.get(LOADING.get(tag, ""), "")
        if tag == "link" and LOADED_LINKS & set(values.get("rel", "").lower().split()):
            address = values.get("href", "")
        for candidate in (address, *values.get("srcset", "").split(",")):
            if REMOTE.match(candidate):
                self.found.append(candidate)


def remote_loads(folder):
    """What the pages and style sheets in `folder` load from other hosts: (file, address) pairs."""
    found = []
    for file in sorted(folder.rglob("*")):
        if file.suffix == ".html":
            found += [(file, address) for address in Loads(file.read_text()).found]
        elif file.suffix == ".css":
            found += [(file, address) for address in IN_CSS.findall(file.read_text())]
    return found


def main():
    """Print what is loaded from other hosts; returns 1 if there is any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    pages = len(list(folder.rglob("*.html")))
    if not pages:
        print(f"{folder} has no pages", file=sys.stderr)
        return 1
    found = remote_loads(folder)
    for file, address in found:
        print(f"{file} loads {address}", file=sys.stderr)
    print(f"{pages} pages, {len(found)} addresses loaded from other hosts")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
