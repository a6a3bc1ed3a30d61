"""The page of the data in a browser: nothing sticks out at 1280 and 400 px, print shows everything, nothing is fetched."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from metier.web.data_page import render_data_page
from tests.browser.chromium import measured, printed
from tests.browser.test_report_page import listening
from tests.web.sample_facts import bare_facts, one_row_facts, sample_facts, wide_facts

WIDTHS = (1280, 400)
FOLD = 900
FACTS = {"sample": sample_facts, "wide": wide_facts, "bare": bare_facts, "one": one_row_facts}


def pages() -> dict[str, tuple[str, int]]:
    """Every page at both widths, as it opens and with all its details open."""
    found = {}
    for kind, facts in FACTS.items():
        html = render_data_page(facts())
        for width in WIDTHS:
            found[f"{kind} {width}"] = (html, width)
            found[f"{kind} {width} open"] = (html.replace("<details>", "<details open>"), width)
    return found


LAYOUT = """(() => {
    const all = query => [...page.document.querySelectorAll(query)], box = item => item.getBoundingClientRect();
    return {
        widths: [page.document.documentElement.scrollWidth, page.innerWidth],
        outside: all('main *').filter(item => !item.closest('.scroll')
            && (box(item).right > page.innerWidth + 0.5 || box(item).left < -0.5)).map(item => item.outerHTML.slice(0, 80)),
        overflowing: all('.line .value, .line .name, .line .note, .facts dd, .notes, .example')
            .filter(item => item.scrollWidth > item.clientWidth + 1).map(item => item.textContent.slice(0, 40)),
        covered: all('.axis').map(axis => [...axis.children].map(box)).map(
            boxes => boxes.slice(1).filter((it, place) => it.width && it.left < boxes[place].right).length),
        bottoms: ['h1', '.sentence', '.notes', '.facts', '.bars'].map(query => all(query)[0]).filter(item => item)
            .map(item => box(item).bottom),
        bars: all('.bars')[0] ? [...all('.bars')[0].querySelectorAll('svg')].map(
            item => box(item.firstElementChild).width / item.clientWidth) : [],
    };
})()"""


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Where everything stands on every page, by one start of the browser."""
    return measured(pages(), LAYOUT, tmp_path_factory.mktemp("layout"))


def test_no_page_is_wider_than_the_window(layout: dict[str, Any]) -> None:
    for name, found in layout.items():
        width = int(name.split()[1])
        assert (found["widths"], found["outside"]) == ([width, width], []), name
    assert len(layout) == 16


def test_no_number_or_name_runs_out_of_its_place(layout: dict[str, Any]) -> None:
    assert {name: found["overflowing"] for name, found in layout.items()} == {name: [] for name in layout}


def test_no_name_under_a_chart_covers_its_neighbour(layout: dict[str, Any]) -> None:
    assert {name: sum(found["covered"]) for name, found in layout.items()} == dict.fromkeys(layout, 0)
    assert len(layout["wide 400"]["covered"]) == 3


def test_the_first_screen_holds_the_answer_the_reasons_and_the_tiles(layout: dict[str, Any]) -> None:
    bottoms = layout["sample 1280"]["bottoms"]
    assert len(bottoms) == 5
    assert [bottom for bottom in bottoms if not 0 < bottom < FOLD] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_bars_are_as_long_as_their_counts(layout: dict[str, Any], width: int) -> None:
    read_reasons_failed_kept = [800, 74, 22, 9, 3, 2, 690]
    expected = [max(num / 800, 0.006) for num in read_reasons_failed_kept]
    assert layout[f"sample {width}"]["bars"] == pytest.approx(expected, abs=0.005)


def test_the_browser_fetches_and_runs_nothing_even_where_an_escape_was_forgotten(tmp_path: Path) -> None:
    page = render_data_page(sample_facts())
    with listening() as (address, asked):
        hostile = page.replace("The isles are", f"<img src='{address}/hostile'><script>document.title = 'run'</script>")
        unguarded = re.sub("<meta http-equiv[^>]*>", "", hostile).replace("/hostile", "/unguarded")
        shown = {"page": (page, 1280), "hostile": (hostile, 1280), "unguarded": (unguarded, 1280)}
        asks = "[page.document.title, page.performance.getEntriesByType('resource').length]"
        found = measured(shown, asks, tmp_path)
    title = "The data is ready, with 1 thing to know: support"
    assert found["page"] == [title, 0]
    assert found["hostile"][0] == title
    assert found["unguarded"][0] == "run", "without the page's policy the script runs: the measure sees it"
    assert set(asked) == {"/unguarded"}


def test_print_shows_the_details_that_the_screen_folds(tmp_path: Path) -> None:
    text = printed(render_data_page(sample_facts()), tmp_path)
    for said in (
        "690 of 800",  # the first screen
        "kept in its place: data/a.jsonl:90",
        "2025-12 62",
        "data/a.jsonl:11",
        "dataset version cdcdcd",
    ):
        assert said in text, said
