"""The page of the data holds the facts, works offline, and shows nothing a person could be recognised by."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from metier.core.data_counts import attribute_of, grouping_of, label_counts
from metier.core.data_facts import Drop, PrivateFacts, Readiness
from metier.web.data_page import render_data_page, write_data_page
from metier.web.data_words import quantity, reason_words, share_words
from metier.web.sentences import DROP_REASONS
from tests.browser.chromium import text_of
from tests.web.sample_facts import HOSTILE, bare_facts, one_row_facts, sample_facts, wide_facts

ALL = {"sample": sample_facts, "wide": wide_facts, "bare": bare_facts, "one": one_row_facts}


def first_screen(page: str) -> str:
    return text_of(page.partition("From read to kept")[0])


def test_the_first_screen_says_whether_the_data_is_ready_and_what_was_read_and_left() -> None:
    text = first_screen(render_data_page(sample_facts()))
    for said in (
        "The data is ready, with 1 thing to know",
        "690 of 800 rows can be used, and the 102 newest make a hold-out.",
        "To know: The isles are too few to be judged alone.",
        "Rows kept measured 690 of 800 2 records not readable as a row",
        "Rows set aside measured 108 74 under a retired policy; 22 nearly the same as another row; "
        "9 with a reply too short; 3 for other reasons",
        "Age measured 218 days is the median; 2025-11-01 to 2026-10-11",  # 390 to 45.5 days, evenly
        "Private data found measured 1,222 e-mail addresses 18, telephone numbers 1,204. Each was replaced",
    ):
        assert said in text, said


def test_data_that_is_not_ready_says_what_to_mend_first() -> None:
    text = first_screen(render_data_page(bare_facts()))
    assert "The data is not ready No row was kept. Mend first: At least two rows are needed." in text
    assert "metier run" not in text


def test_a_sentence_that_only_repeats_the_problem_is_not_said_twice() -> None:
    problem = "The hold-out needs 20 groups; there are 3."
    twice = Readiness(ready=False, sentence=f"Not ready: {problem}", problems=(problem,))
    assert text_of(render_data_page(replace(bare_facts(), readiness=twice))).count(problem) == 1
    two = replace(twice, problems=(problem, "No times."))
    assert text_of(render_data_page(replace(bare_facts(), readiness=two))).count(problem) == 2


def test_data_that_is_ready_without_reserve_says_what_comes_next() -> None:
    text = first_screen(render_data_page(one_row_facts()))
    assert "The data is ready One row. Next: metier run takes these rows to a verdict." in text


def test_every_reason_has_its_rule_its_share_and_masked_examples() -> None:
    text = text_of(render_data_page(sample_facts()))
    for said in (
        "read 800 100.0 % under a retired policy The reply follows a policy that is no longer in force. 74 9.2 %",
        "at least 80% of their three-word pieces with a row that is kept",
        "not readable as a row 2 0.2 % kept 690 86.2 %",
        "1 example, masked: nearly the same as another row",
        "data/a.jsonl:7 kept in its place: data/a.jsonl:90 My *** is ***",
        "data/a.jsonl:3 Hello ***, please *** 000",
        "data/a.jsonl:5 Text not shown.",
        "Where records could not be read: the first 2 data/a.jsonl:118 data/a.jsonl:700",
    ):
        assert said in text, said
    for hidden in ("Viggo", "Sorrel", "0171", "1234567", "Glimmer"):
        assert hidden not in text, hidden


def test_age_lengths_slices_labels_sources_groups_and_parts_stand_on_the_page() -> None:
    text = text_of(render_data_page(sample_facts()))
    for said in (
        "Median age 218 days; one row in ten is 356 days old or more, one in ten 80 or less.",
        "month rows 2025-11 60 2025-12 62",  # two rows a day
        "Prompt Median 34 words; one in twenty has 57 or more; the longest 59. On 690 rows.",
        "hills 60 hold-out rows 400 58.0 % coast 30 hold-out rows 197 28.6 % isles 12 hold-out rows: too few to judge",
        "1 of 3 values too small to judge (under 20 hold-out rows): isles.",
        "Not named, because so rare a value can point at a person: 1 value with fewer than 5 rows, 1 row in all.",
        "Without a value: 2 rows.",
        "2 labels in 690 rows; the most frequent has 500, the rarest 190. measured refund 500 72.5 %",
        "Kept rows whose label differs from that of a nearly identical row: 4.",
        "give them as your own: e-mail addresses 1.",
        "letters garbled by a wrong encoding 3",
        "data/a.jsonl 800 690 108 2",
        "customer : 3 groups in 690 rows; the largest has 600. For an interval they are worth at least 1 independent row.",
        "The hold-out speaks for later rows. part rows groups oldest newest train 548 3 2025-11-01 2026-08-01",
        "hold-out 102 2 2026-08-02 2026-10-11",
    ):
        assert said in text, said


def test_rows_to_look_at_stand_by_id_and_place_alone() -> None:
    text = text_of(render_data_page(sample_facts()))
    assert "690 rows judged measured ; about 5 labels may be wrong estimated" in text
    assert "row where 000000000000 data/a.jsonl:0" in text
    assert "2 more row where 000000000000 data/a.jsonl:10 000000000000 data/a.jsonl:11" in text
    text = text_of(render_data_page(wide_facts()))
    assert "190 more, of 490 row where" in text


def test_agreement_carries_interval_and_number_or_says_not_measured() -> None:
    facts = sample_facts()
    text = text_of(render_data_page(facts))
    assert "3 annotators. Krippendorff's alpha 0.41 (0.36 to 0.46, 95 %) on 120 rows" in text
    assert "87.3 % (84.1 % to 90.2 %, 95 %) on 120 rows" in text
    assert facts.agreement is not None
    part = replace(facts.agreement, alpha=None, ceiling=None)
    assert "Krippendorff's alpha not measured; label ceiling" in text_of(
        render_data_page(replace(facts, agreement=part))
    )
    assert "Not measured: no votes of several annotators." in text_of(render_data_page(replace(facts, agreement=None)))


@pytest.mark.parametrize("name", ALL)
def test_the_page_needs_no_network_and_no_script(name: str) -> None:
    page = render_data_page(ALL[name]())
    assert not re.findall(r"(?:src|href)\s*=|url\(|@import|<script", page)
    assert ("&lt;script&gt;document.title" in page) == (name == "wide")


@pytest.mark.parametrize("name", ALL)
def test_no_python_value_and_no_control_character_stands_on_the_page(name: str) -> None:
    page = render_data_page(ALL[name]())
    assert re.findall(r"\bNone\b|\bTrue\b|\bFalse\b|\bnan\b|\binf\b|\{'|\['|\bnull\b|\{\{", text_of(page)) == []
    assert re.findall("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", page) == []


@pytest.mark.parametrize("name", ALL)
def test_every_tag_is_closed(name: str) -> None:
    open_tags: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in ("meta", "br"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            """`<rect/>` opens nothing."""

    Checker().feed(render_data_page(ALL[name]()))
    assert open_tags == []


def test_no_rows_no_times_no_labels_no_slices_no_groups_each_say_so() -> None:
    text = text_of(render_data_page(bare_facts(read=3)))
    for said in (
        "Rows kept measured 0 of 3 3 records not readable as a row",
        "Age not known no kept row has a time",
        "Private data found not known it was not looked for",
        "Name a column in [data] time .",
        "No rows were kept.",
        "No slices: name columns in [data] attributes",
        "The rows have no labels.",
        "No text needed it.",
        "No groups: name a column in [data] groups",
        "The rows are not split yet.",
        "a person should look at Not looked for.",
        "dataset version none",
    ):
        assert said in text, said
    assert "no record was found" in text_of(render_data_page(bare_facts()))


def test_what_was_not_measured_is_not_called_measured() -> None:
    text = text_of(render_data_page(bare_facts()))
    for heading in (
        "Age of the kept rows No kept row", "in words No rows", "Private data It was", "Split The rows", "annotators Not",
    ):  # fmt: skip
        assert heading in text, heading


def test_one_column_is_no_chart() -> None:
    assert render_data_page(one_row_facts()).count('class="chart"') == 0
    assert "month rows 2023-11 1" in text_of(render_data_page(one_row_facts()))
    assert render_data_page(sample_facts()).count('class="chart"') == 3


def test_of_many_labels_and_values_most_are_folded_and_none_is_lost() -> None:
    labels = {f"label {place:03}": 1000 - place for place in range(200)}
    page = render_data_page(replace(sample_facts(), labels=label_counts(labels)))
    shown, _, folded = page.partition("188 more labels, 168,166 rows in all")
    assert "label 011" in shown
    assert "label 012" not in shown
    assert [name for name in labels if name not in shown + folded] == []


def test_slices_before_the_split_are_expected_and_say_so() -> None:
    kept = {"isles": 90, "hills": 600}
    facts = replace(sample_facts(), attributes=(attribute_of("region", kept, num_kept=690, expected_holdout=100),))
    text = text_of(render_data_page(facts))
    assert "region measured hold-out rows estimated" in text
    assert "isles about 13 hold-out rows: too few to judge 90" in text
    facts = replace(sample_facts(), attributes=(attribute_of("region", {"isles": 19, "hills": 20}, num_kept=39),))
    text = text_of(render_data_page(facts))
    assert "1 of 2 values too small to judge (under 20 rows): isles." in text
    assert "isles too few to judge 19" in text
    facts = replace(sample_facts(), attributes=(attribute_of("region", {"hills": 20}, num_kept=20),))
    assert "Every value named here can be judged (20 rows or more)." in text_of(render_data_page(facts))


def test_more_problems_than_fit_are_folded_and_counted() -> None:
    facts = replace(
        bare_facts(), readiness=Readiness(ready=False, sentence="No.", problems=tuple(f"Mend {n}." for n in range(7)))
    )
    assert "Mend 3. 3 more Mend 4. Mend 5. Mend 6." in text_of(render_data_page(facts))


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("replace", "Each was replaced by a stand-in of the same form, the same one wherever it stood."),
        ("quarantine", "The rows that hold some were set aside."),
        ("keep", "All were left as they are, as the project says."),
    ],
)
def test_what_happened_to_private_data_is_said(action: str, said: str) -> None:
    page = render_data_page(replace(sample_facts(), private=PrivateFacts(found={"iban": 2}, action=action)))
    assert f"IBANs 2 {said}" in text_of(page)
    none = render_data_page(replace(sample_facts(), private=PrivateFacts(found={"iban": 0}, action=action)))
    assert "0 Nothing was found." in text_of(none)


def test_a_long_name_is_cut_and_a_wrong_date_is_told() -> None:
    text = text_of(render_data_page(wide_facts()))
    assert "w" * 119 + "\u2026" in text
    assert "w" * 120 not in text
    assert "Without a time: 1 row. With a time still to come: 1 row; check the column in [data] time." in text


def test_reasons_without_rows_are_not_listed_and_unknown_ones_are() -> None:
    facts = sample_facts()
    more = (*facts.drops, Drop(reason="expired", num=0, rule="Past."), Drop(reason="new_rule", num=1, rule="New."))
    text = text_of(render_data_page(replace(facts, drops=more, kept=689)))
    assert "past its expiry date" not in text
    assert "new rule New. 1 0.1 %" in text
    assert [reason for reason in DROP_REASONS if reason_words(reason) != DROP_REASONS[reason]] == []


def test_quantities_agree_with_their_noun() -> None:
    assert [quantity(num, "row") for num in (0, 1, 2, 1200)] == ["0 rows", "1 row", "2 rows", "1,200 rows"]
    line = text_of(render_data_page(replace(sample_facts(), groups=(grouping_of("case", np.array([1])),))))
    assert "case : 1 group in 1 row; the largest has 1." in line


def test_a_share_of_few_or_of_nearly_all_is_not_rounded_away() -> None:
    assert [share_words(share) for share in (0.0, 1e-6, 0.0004, 0.0005, 0.5, 0.9994, 0.9996, 1.0)] == [
        "0.0 %", "under 0.1 %", "under 0.1 %", "0.1 %", "50.0 %", "99.9 %", "over 99.9 %", "100.0 %",
    ]  # fmt: skip


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    path = write_data_page(sample_facts(), tmp_path / "data.html")
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_the_same_facts_make_the_same_page() -> None:
    assert render_data_page(sample_facts()) == render_data_page(sample_facts())
    assert json.dumps(HOSTILE) not in render_data_page(wide_facts())
