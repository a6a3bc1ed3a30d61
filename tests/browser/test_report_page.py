"""The report page in a browser: nothing sticks out at 1280 and 400 px, print shows everything, nothing is fetched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from metier.core.report import Outcome, Report
from metier.web import render_report
from tests.browser.chromium import measured, printed
from tests.web.sample_report import sample_report

WIDTHS = (1280, 400)
FOLD = 900


def wide_report() -> Report:
    """Long names, long words and large numbers: what makes a table too wide."""
    report = sample_report(Outcome.NEED_HOLDOUT_ROWS)
    long = "retrieval_with_all_the_examples_of_the_last_year"
    arms = tuple(replace(arm, name=long) if arm.name == "retrieval" else arm for arm in report.arms)
    data = replace(report.data, read=1_234_567, failures=("data/tickets.jsonl:118: " + "x" * 200,))
    reply = replace(report.examples[0], base="y" * 300, prompt="z" * 300)
    return replace(report, arms=arms, data=data, examples=(reply, *report.examples[1:]))


def pages(*, is_open: bool) -> dict[str, tuple[str, int]]:
    found = {}
    for kind, report in (("sample", sample_report()), ("wide", wide_report())):
        html = render_report(report)
        for width in WIDTHS:
            found[f"{kind} {width}"] = (html.replace("<details>", "<details open>") if is_open else html, width)
    return found


@pytest.mark.parametrize("is_open", [False, True])
def test_no_page_is_wider_than_the_window(is_open: bool, tmp_path: Path) -> None:
    sticks_out = """[page.document.documentElement.scrollWidth, page.innerWidth,
        [...page.document.querySelectorAll('main *')].filter(item => !item.closest('.scroll')
            && item.getBoundingClientRect().right > page.innerWidth).map(item => item.outerHTML.slice(0, 80))]"""
    found = measured(pages(is_open=is_open), sticks_out, tmp_path)
    assert found == {name: [width, width, []] for name, (_, width) in pages(is_open=is_open).items()}


def test_the_first_screen_holds_verdict_next_step_tiles_and_every_alternative(tmp_path: Path) -> None:
    bottoms = """Object.fromEntries(['h1', '.sentence', '.next', '.facts', '.arms'].map(
        item => [item, page.document.querySelector(item).getBoundingClientRect().bottom]))"""
    found = measured({"sample": (render_report(sample_report()), 1280)}, bottoms, tmp_path)["sample"]
    assert isinstance(found, dict)
    assert {name: bottom for name, bottom in found.items() if not 0 < bottom < FOLD} == {}


@contextmanager
def listening() -> Iterator[tuple[str, list[str]]]:
    """Address of a server on this machine, and the paths that were asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()


def test_the_browser_fetches_and_runs_nothing_even_where_an_escape_was_forgotten(tmp_path: Path) -> None:
    page = render_report(sample_report())
    with listening() as (address, asked):
        hostile = page.replace(
            "I am sorry to hear that!", f"<img src='{address}/hostile'><script>document.title = 'run'</script>"
        )
        unguarded = re.sub("<meta http-equiv[^>]*>", "", hostile).replace("/hostile", "/unguarded")
        pages = {"page": (page, 1280), "hostile": (hostile, 1280), "unguarded": (unguarded, 1280)}
        asks = "[page.document.title, page.performance.getEntriesByType('resource').length]"
        found = measured(pages, asks, tmp_path)
    assert found["page"] == ["Worth it: support", 0]
    assert found["hostile"][0] == "Worth it: support"
    assert found["unguarded"][0] == "run", "without the page's policy the script runs: the measure sees it"
    assert set(asked) == {"/unguarded"}


def test_print_shows_the_details_that_the_screen_folds(tmp_path: Path) -> None:
    text = printed(render_report(sample_report()), tmp_path)
    for said in (
        "+19.3 points",  # the first screen
        "few_shot: tried on dev",
        "set 1, 3 examples",
        "Bonett-Price; 95 % sure of the lower bound, 98.8 % of the upper",
        "to aim for next 120 groups (about 180 rows)",
        "if it is the measured one no number of rows decides",
        "similarity, train-holdout 0.71",
        "fingerprint differs on 40 of 40 dev prompts",
        "Dev loss over 20 steps: 2.100 to 1.000 nats a token",
        "before look, cost ratio not known",
        "dataset version cdcdcd",
    ):
        assert said in text, said
