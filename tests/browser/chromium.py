"""A headless Chromium without a network: the DOM of a page, and a page as it is printed."""

from __future__ import annotations

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--proxy-server=127.0.0.1:9",
)  # fmt: skip


def browser() -> str:
    """Path of a Chromium; the test is skipped where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH; install one to check the page's layout")
    return found


def opened(work_dir: Path, *arguments: str) -> str:
    """What Chromium prints for these arguments."""
    command = [browser(), *FLAGS, f"--user-data-dir={work_dir / 'profile'}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def measured(pages: dict[str, tuple[str, int]], script: str, work_dir: Path) -> dict[str, Any]:
    """What a JavaScript expression over `page` (the window of each page) gives, by name.

    Every page (HTML, width in px) stands in a frame of 900 px height: its media queries see the frame's width.
    """
    frames = {name: {"html": html, "width": width} for name, (html, width) in pages.items()}
    told = json.dumps(frames).replace("</", "<\\/")
    host = work_dir / "host.html"
    host.write_text(
        f"""<!doctype html><pre id="told"></pre><script>
        const pages = {told}, found = {{}};
        const ask = page => ({script});
        for (const [name, entry] of Object.entries(pages)) {{
            const frame = document.createElement("iframe");
            frame.style = `border:0;width:${{entry.width}}px;height:900px`;
            frame.onload = () => {{
                found[name] = ask(frame.contentWindow);
                document.getElementById("told").textContent = JSON.stringify(found);
            }};
            frame.srcdoc = entry.html;
            document.body.append(frame);
        }}
        </script>""",
        encoding="utf-8",
    )
    dom = opened(work_dir, "--virtual-time-budget=10000", "--window-size=1400,1000", "--dump-dom", host.as_uri())
    texts = text_of(dom, only="pre")
    values: dict[str, Any] = json.loads(texts)
    assert values.keys() == pages.keys()
    return values


def printed(html: str, work_dir: Path) -> str:
    """The text of the page as a PDF; the test is skipped where nothing can read one."""
    reader = shutil.which("pdftotext")
    if reader is None:
        pytest.skip("no pdftotext on the PATH; install poppler-utils to check what is printed")
    source, target = work_dir / "page.html", work_dir / "page.pdf"
    source.write_text(html, encoding="utf-8")
    opened(work_dir, f"--print-to-pdf={target}", "--no-pdf-header-footer", source.as_uri())
    done = subprocess.run([reader, "-raw", str(target), "-"], capture_output=True, text=True, check=True)
    return " ".join(done.stdout.split())


def text_of(html: str, *, only: str = "body") -> str:
    """The visible text inside an element of the page."""

    class Reader(HTMLParser):
        inside = hidden = 0
        pieces: list[str]

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.inside += tag == only
            self.hidden += tag in ("style", "script")

        def handle_endtag(self, tag: str) -> None:
            self.inside -= tag == only
            self.hidden -= tag in ("style", "script")

        def handle_data(self, data: str) -> None:
            if self.inside and not self.hidden:
                self.pieces.append(data)

    reader = Reader()
    reader.pieces = []
    reader.feed(html)
    return " ".join(" ".join(reader.pieces).split())
