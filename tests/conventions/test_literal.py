"""Checks letter by letter, each with a good, a bad and an odd reply."""

import pytest

from metier.core.errors import DataError
from tests.conventions.builders import convention, passes, row, why


def test_label_in_takes_only_the_bare_label():
    labels = {"labels": ["refund", "late parcel"]}
    assert passes("label_in", labels, " late\n parcel ")
    for text in ("", "Refund", "refund.", "The label is refund", "late"):
        assert not passes("label_in", labels, text)
    assert why("label_in", labels, "x") == "The reply 'x' is not one of the labels 'refund', 'late parcel'."


def test_exact_folds_spacing_and_unicode_forms_but_not_case():
    on = row(gold="Caf\u00e9 au  lait")
    assert passes("exact", {}, "Cafe\u0301\nau lait ", on)
    assert not passes("exact", {}, "caf\u00e9 au lait", on)
    assert passes("exact", {"ignore_case": True}, "CAF\u00c9 AU LAIT", on)
    assert why("exact", {}, "tea", on) == "The reply 'tea' is not 'Caf\u00e9 au lait'."


def test_exact_with_an_empty_gold_passes_nothing():
    assert why("exact", {}, "", row(gold=" ")) == "The gold reply is empty, so nothing can equal it."


def test_regex_counts_matches():
    args = {"pattern": r"T-\d+", "min_count": 2, "max_count": 3}
    assert [passes("regex", args, "T-1 " * n) for n in range(5)] == [False, False, True, True, False]
    assert "is found nowhere; at least 2 expected" in why("regex", args, "")
    assert "is found 4 times; at most 3 allowed" in why("regex", args, "T-1 " * 4)
    assert passes("regex", {"pattern": "x", "min_count": 0, "max_count": 0}, "")


def test_regex_anchors_match_at_line_ends():
    assert passes("regex", {"pattern": "^Regards,$"}, "Hi\nRegards,\nBo")


def test_starts_and_ends_look_past_spacing_only():
    assert passes("starts_with", {"any": ["Hi", "Dear Ana"]}, "\n Dear\tAna, yes")
    assert not passes("starts_with", {"any": ["Dear Ana"]}, "dear Ana, yes")
    assert not passes("starts_with", {"any": ["Dear Ana"]}, "")
    assert why("starts_with", {"any": ["Dear"]}, "Yo Ana") == "The reply begins 'Yo Ana', not with 'Dear'."
    assert passes("ends_with", {"any": ["Kind regards,\nThe desk"]}, "Bye. Kind regards, The desk \n")
    assert not passes("ends_with", {"any": ["The desk"]}, "The desk says bye")
    assert why("ends_with", {"any": ["The desk"]}, "bye") == "The reply ends 'bye', not with 'The desk'."


def test_contains_scores_the_share_found():
    assert convention("contains", {"all": ["a1", "b2", "c3", "d4"]}).check(row(), "A1 and d4").score == 0.5
    assert passes("contains", {"any": ["refund", "credit"]}, "a Credit")
    assert not passes("contains", {"any": ["refund", "credit"]}, "")
    assert not passes("contains", {"all": ["GBP"], "ignore_case": False}, "gbp 4")
    mixed = convention("contains", {"all": ["x"], "any": ["y", "z"]}).check(row(), "z")
    assert (mixed.score, mixed.why) == (0.5, "The reply does not contain 'x'.")


def test_contains_from_prompt_asks_for_every_distinct_value():
    on = row("Orders T-12, T-7 and t-12 are late")
    args = {"from_prompt": r"(?i)t-(\d+)"}
    assert passes("contains", args, "7 and 12", on)
    assert convention("contains", args).check(on, "only 12").score == 0.5
    assert convention("contains", args).check(on, "127 and A7, 12.50").score == 0.0  # parts of other values


def test_contains_from_prompt_reads_user_text_and_not_the_system_text():
    on = row("Order T-5", system="Example: T-99")
    assert passes("contains", {"from_prompt": r"T-\d+"}, "T-5", on)


def test_contains_from_prompt_does_not_read_earlier_replies():
    from metier.core.rows import Message, Meta, Role, make_row

    turns = ((Role.USER, "T-5?"), (Role.ASSISTANT, "T-77 you mean?"), (Role.TOOL, "T-6"), (Role.ASSISTANT, "gold"))
    on = make_row(
        b"k", messages=tuple(Message(role=r, content=c) for r, c in turns), meta=Meta(source="s", source_row=0)
    )
    assert passes("contains", {"from_prompt": r"T-\d+"}, "T-5 T-6", on)
    assert not passes("contains", {"from_prompt": r"T-\d+"}, "T-5", on)


def test_contains_from_gold_finds_values_of_the_gold_reply():
    on = row(gold="A refund of GBP 12.50 follows.")
    args = {"from_gold": r"GBP (\d+\.\d\d)"}
    assert passes("contains", args, "We send 12.50 back", on)
    assert not passes("contains", args, "We send 12.5 back", on)
    assert not passes("contains", args, "We send 112.50 back", on)


def test_a_value_that_is_not_there_passes_silently_only_where_it_may():
    args = {"from_prompt": r"T-\d+"}
    on = row("no number here")
    assert convention("contains", args).check(on, "anything").score == 1.0
    specific = convention("contains", args, row_specific=True)
    with pytest.raises(DataError) as err:
        specific.check(on, "anything")
    place = f"t.jsonl:1 (row {on.row_id})"
    assert f"{place}: convention 'rule': the pattern 'T-\\d+' finds nothing in the prompt, so" in str(err.value)
    assert "so every reply would pass" in str(err.value)
    assert "row_specific = false" in str(err.value)
    gold = convention("contains", {"from_gold": "zz"}, row_specific=True)
    with pytest.raises(DataError, match="finds nothing in the gold reply, so"):
        gold.check(on, "x")


def test_forbids_sees_whole_words_in_any_case():
    args = {"words": ["fault", "you failed"]}
    assert not passes("forbids", args, "It is your FAULT")
    assert not passes("forbids", args, "you\n failed")
    assert passes("forbids", args, "The default is faulty")
    assert passes("forbids", args, "")
    assert why("forbids", args, "fault") == "The reply contains 'fault', which is forbidden."


def test_forbids_finds_its_pattern_across_lines():
    assert not passes("forbids", {"pattern": r"within \d+ days"}, "ok\nwithin 3 days")
    assert passes("forbids", {"pattern": r"within \d+ days"}, "Within 3 days")


def test_glossary_wants_the_preferred_term():
    args = {"terms": {"log in": ["log", "login"], "PayPal": ["Paypal"]}}
    assert passes("glossary", args, "Please log in with PayPal.")
    assert not passes("glossary", args, "Please Login.")
    assert not passes("glossary", args, "Use Paypal.")
    assert why("glossary", args, "the log") == "The reply says 'log' instead of 'log in'."
    assert passes("glossary", args, "catalog, logs")


def test_quotes_must_stand_in_the_prompt():
    on = row('She said: the door was open all night.\nIt "creaks".')
    args = {"min_words": 2}
    assert passes("quotes_in_prompt", args, 'You write "The door  was open."', on)
    assert passes("quotes_in_prompt", args, "\u201cthe door ... all night\u201d", on)
    assert passes("quotes_in_prompt", args, 'A "gate" of one word', on)
    assert not passes("quotes_in_prompt", args, 'You write "the gate was open"', on)
    assert not passes("quotes_in_prompt", args, "\u00abthe gate\u00bb", on)
    assert not passes("quotes_in_prompt", args, "\u201ethe gate\u201c", on)
    assert passes("quotes_in_prompt", args, 'A pipe of 5" without an end', on)
    assert why("quotes_in_prompt", args, '"a b"', on) == "The quotation 'a b' is not in the prompt."
