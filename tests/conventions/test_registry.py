"""Names, args, placeholders: everything about a convention that is checked before a row is seen."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.conventions import Check, check_names, describe, make_conventions, register
from metier.core.errors import ConfigError, DataError
from metier.core.settings import ConventionConfig
from tests.conventions.builders import convention, passes, row

MINIMAL = {
    "label_in": {"labels": ["a"]}, "exact": {}, "regex": {"pattern": "x"}, "starts_with": {"any": ["x"]},
    "ends_with": {"any": ["x"]}, "contains": {"all": ["x"]}, "forbids": {"words": ["x"]}, "word_count": {"max": 9},
    "sentence_count": {"max": 3}, "json_schema": {"schema": {"type": "object"}}, "numeric": {}, "date_format": {},
    "money_format": {"currency": "GBP"}, "glossary": {"terms": {"refund": ["money back"]}},
    "sections": {"names": ["A"]}, "quotes_in_prompt": {}, "language": {"code": "en"}, "tool_call": {}, "rouge_l": {},
    "chrf": {}, "python": {"function": "own:score"},
}  # fmt: skip


@pytest.fixture
def project(tmp_path):
    (tmp_path / "own.py").write_text("def score(row, text):\n    return float(len(text) > 3)\n")
    return tmp_path


def test_every_promised_check_exists_and_no_other():
    assert set(check_names()) == set(MINIMAL)


@pytest.mark.parametrize("check", sorted(MINIMAL))
@pytest.mark.parametrize("text", ["", " \n", "\x00", "a" * 200_000, "\u00e9\U0001f600 \ud83d", "1" * 5000, "(" * 5000])
def test_every_check_gives_a_score_and_a_sentence_for_any_text(check, text, project):
    result = convention(check, MINIMAL[check], project).check(row(), text)
    assert 0 <= result.score <= 1
    assert bool(result.why) == (result.score < 1)
    assert len(result.why) < 600


@settings(max_examples=40, deadline=None)
@given(check=st.sampled_from(sorted(set(MINIMAL) - {"python"})), text=st.text(max_size=80))
def test_no_text_breaks_a_check_or_leaves_a_fault_unsaid(check, text):
    result = convention(check, MINIMAL[check]).check(row(), text)
    assert 0 <= result.score <= 1
    assert bool(result.why) == (result.score < 1)


@pytest.mark.parametrize("check", sorted(MINIMAL))
def test_every_check_says_its_rule_in_a_sentence(check, project):
    sentence = convention(check, MINIMAL[check], project).guideline
    assert sentence[0].isupper()
    assert "{name}" not in sentence
    assert len(sentence) > 10


@pytest.mark.parametrize("check", sorted(MINIMAL))
def test_an_unknown_arg_names_the_convention(check, project):
    with pytest.raises(ConfigError, match=r"\[\[convention\]\] 'rule': unknown setting 'zzz'; known|did you mean"):
        convention(check, {**MINIMAL[check], "zzz": 1}, project)


def test_a_misspelt_arg_gets_the_near_one():
    with pytest.raises(ConfigError, match=r"unknown setting 'from_promt'; did you mean 'from_prompt'\?"):
        convention("contains", {"from_promt": "x"})


def test_a_missing_arg_says_what_it_is_for():
    with pytest.raises(ConfigError, match=r"'labels' is missing; add it \(The labels.\)"):
        convention("label_in")


def test_an_unknown_check_gets_the_near_one():
    with pytest.raises(
        ConfigError, match=r"\[\[convention\]\] 'rule': unknown check 'word_counts'; did you mean 'word_count'\?"
    ):
        convention("word_counts", {})
    with pytest.raises(ConfigError, match="unknown check 'zz'; known: chrf, contains, date_format"):
        convention("zz", {})


def test_a_name_is_registered_once():
    with pytest.raises(ConfigError, match="check 'exact' is registered twice; known: chrf"):
        register("exact")(Check)


@pytest.mark.parametrize(
    ("check", "args", "message"),
    [
        ("word_count", {"min": "3"}, "rule' min is '3', a str; expected int"),
        ("word_count", {}, "neither min nor max is given: every reply would pass"),
        ("word_count", {"min": 5, "max": 4}, "min is 5 and max 4"),
        ("sentence_count", {"max": 0}, "min is 0 and max 0"),
        ("starts_with", {"any": []}, "any is []; expected one or more texts"),
        ("ends_with", {"any": [" "]}, "none empty"),
        ("starts_with", {"any": "Dear"}, "any is 'Dear'; expected a list"),
        ("label_in", {"labels": []}, "labels is []"),
        ("regex", {"pattern": "("}, "pattern is '('; not a regular expression: missing )"),
        ("regex", {"pattern": "x", "min_count": 0}, "every reply would pass"),
        ("regex", {"pattern": "x", "min_count": 3, "max_count": 2}, "min_count is 3 and max_count 2"),
        ("contains", {}, "none of all, any, from_prompt and from_gold is given"),
        ("contains", {"from_prompt": "["}, "from_prompt is '['; not a regular expression"),
        ("contains", {"from_gold": "["}, "from_gold is '['; not a regular expression"),
        ("forbids", {}, "neither words nor pattern is given"),
        ("forbids", {"pattern": "*"}, "not a regular expression"),
        ("glossary", {"terms": {}}, "terms is []"),
        ("glossary", {"terms": {"a": ["a"]}}, "forbids the preferred term itself"),
        ("numeric", {"tolerance": -1}, "tolerance is -1.0"),
        ("numeric", {"relative": 1}, "relative 1.0"),
        ("rouge_l", {"min": 0}, "min is 0.0; expected a number in"),
        ("chrf", {"min": 1.5}, "min is 1.5; expected a number in"),
        ("language", {"code": "english"}, "code is 'english'; did you mean|known: de, en"),
        ("sections", {"names": []}, "names is []"),
        ("quotes_in_prompt", {"min_words": 0}, "min_words is 0"),
        ("json_schema", {"schema": {}}, "schema is empty"),
        ("json_schema", {"schema": {"type": "objekt"}}, "schema is not a JSON Schema"),
        ("json_schema", {"schema": {"$ref": "https://example.org/x.json"}}, "points outside the schema"),
        ("date_format", {"format": "%Y"}, "expected a day and a month"),
        ("date_format", {"format": "%d %Q"}, "%Q is not known here"),
        ("date_format", {"format": "%d %d %m"}, "a part stands twice"),
        ("money_format", {}, "found neither of pattern and currency"),
        ("money_format", {"pattern": "x", "currency": "GBP"}, "found both of pattern and currency"),
        ("money_format", {"currency": "GPB"}, "currency is 'GPB'; did you mean 'GBP'"),
        ("money_format", {"currency": "GBP", "decimals": -1}, "decimals is -1"),
        ("money_format", {"currency": "GBP", "style": "first"}, "style is 'first'"),
    ],
)  # fmt: skip
def test_a_wrong_arg_is_refused_before_any_row_is_seen(check, args, message):
    with pytest.raises(ConfigError) as err:
        convention(check, args)
    assert "[[convention]] 'rule'" in str(err.value)
    assert any(part in str(err.value) for part in message.split("|"))


def test_placeholders_are_filled_from_the_row():
    ana = row(attributes={"customer": "Ana"}, groups={"order": "4411"})
    assert passes("starts_with", {"any": ["Dear {attributes.customer},"]}, "Dear Ana, hello", ana)
    assert not passes("starts_with", {"any": ["Dear {attributes.customer},"]}, "Dear Bo, hello", ana)
    assert passes("contains", {"all": ["order {groups.order}"]}, "Your order 4411.", ana)


def test_a_placeholder_in_a_pattern_is_literal():
    odd = row(attributes={"code": "a.c(1)+"})
    assert passes("regex", {"pattern": r"^{attributes.code}\d{2}$"}, "a.c(1)+77", odd)
    assert not passes("regex", {"pattern": r"^{attributes.code}\d{2}$"}, "abc(1)+77", odd)


def test_a_missing_attribute_names_row_and_convention():
    with pytest.raises(DataError) as err:
        convention("starts_with", {"any": ["Dear {attributes.customer}"]}).check(
            row(attributes={"region": "n"}), "Dear"
        )
    assert str(err.value).startswith(
        f"convention 'rule': t.jsonl:1 (row {row(attributes={'region': 'n'}).row_id}) has no attributes.customer"
    )
    assert "has no attributes.customer (it has: region). Add the column to [data] attributes" in str(err.value)


def test_an_empty_attribute_is_a_missing_one():
    with pytest.raises(DataError, match="has no attributes.customer"):
        convention("contains", {"all": ["{attributes.customer}"]}).check(row(attributes={"customer": " "}), "x")


def test_a_misspelt_placeholder_is_refused_when_built():
    with pytest.raises(ConfigError, match=r"unknown placeholder '\{attribute.name\}'; did you mean 'attributes'\?"):
        convention("starts_with", {"any": ["Dear {attribute.name}"]})
    with pytest.raises(ConfigError, match=r"placeholder '\{groups.\}' has no name; write \{groups.NAME\}"):
        convention("forbids", {"pattern": "{groups.}"})
    with pytest.raises(ConfigError, match="unknown placeholder"):
        convention("glossary", {"terms": {"refund": ["{meta.x}"]}})


def test_braces_of_patterns_and_json_are_no_placeholders():
    assert passes("regex", {"pattern": r"\d{4}"}, "4411")
    assert passes("contains", {"all": ['{"a": 1}']}, '{"a": 1}')


def test_describe_lists_each_rule_once_in_order():
    configs = [
        ConventionConfig(name="greeting_line", check="starts_with", args={"any": ["Dear {attributes.first_name},"]}),
        ConventionConfig(name="short", check="word_count", args={"max": 80}),
        ConventionConfig(name="short_again", check="word_count", args={"max": 80}),
        ConventionConfig(name="ticket_number", check="contains", args={"from_prompt": r"T-\d+"}),
    ]
    assert describe(make_conventions(configs, None)) == [
        "Begin the reply with 'Dear <first name>,'.",
        "Write at most 80 words.",
        r"Repeat, exactly as written, every ticket number in the message (text that matches T-\d+).",
    ]


def test_conventions_know_what_a_server_without_gold_can_check():
    needing = {name for name in MINIMAL if name != "python" and convention(name, MINIMAL[name]).rule.needs_gold}
    assert needing == {"exact", "numeric", "tool_call", "rouge_l", "chrf"}
    assert convention("contains", {"from_gold": "x"}).rule.needs_gold
