"""Write the tickets of the Lanternkeep example: `python generate.py` rewrites data/tickets.jsonl byte for byte.

Everything is invented: shop, customers, tickets, and the private data planted in them (documentation address
ranges, numbers reserved for drama, a test card range, a bank that does not exist). The sentences stand in
wording.toml. `planted.json` is the answer key of what was planted; nothing in the road reads it.
"""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")
Record = dict[str, Any]  # Any: one JSON object of a known small set of keys

HERE = Path(__file__).resolve().parent
SEED = 20261101
HEARTH_WINDOW_DAYS = 30  # refund-v2: money inside it, hearth credit or the mend bench after it
OLD_WINDOW_DAYS = 14  # refund-v1, retired
LOST_AFTER_DAYS = 10  # a crate on the road for longer is sent again
POLICY_CHANGED = datetime(2025, 4, 1, tzinfo=UTC)
INTENTS = ("return", "faulty", "late", "billing", "swap", "missing_part")
REFUND_INTENTS = ("return", "faulty", "swap")

# First day, last day and rows of each era; a ticket wording belongs to one era only.
ERAS = {
    1: (datetime(2024, 11, 1, tzinfo=UTC), datetime(2026, 5, 31, tzinfo=UTC), 654),
    2: (datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 7, 31, tzinfo=UTC), 44),
    3: (datetime(2026, 8, 1, tzinfo=UTC), datetime(2026, 10, 31, tzinfo=UTC), 112),
}
NUM_CUSTOMERS = 260
NUM_NEAR_DUPLICATES, NUM_EXACT_DUPLICATES = 22, 6
WRONG_REPLIES = {
    "wrong_name": 3, "wrong_reference": 3, "promised_date": 4, "blame": 3, "sign_off": 3, "money_format": 3,
}  # fmt: skip
NUM_WRONG_LABELS, NUM_WRONG_SETTLEMENTS = 7, 4
PRIVATE = {"email": 18, "phone": 16, "card": 9, "iban": 9, "ip": 8}

FIRST = (
    "Ada Anselm Bea Bram Cleo Corin Dora Dylan Edda Emeka Fern Farid Gita Goran Hedda Hugo Ines Ivo Jada Joris Kaia "
    "Kofi Lena Luca Mira Marek Nadia Nils Oona Omar Petra Pavel Quinn Rhea Rufus Sanna Samir Tilda Tomas Una Viggo "
    "Vera Wanda Wim Xenia Yara Yusuf Zita Zeno Alba Boris Carys Dario Elke Fabio Greta Hanif Isla Jonas Keiko"
).split()
LAST = (
    "Abara Birch Castell Dunmore Ekberg Farrow Gillam Hollis Ibarra Jansen Kestrel Lindqvist Mabry Norrell Okafor Pell "
    "Quill Rasmus Sorrel Tamm Underhay Varga Whitlow Yarrow Zeller Ashdown Brook Corbett Dell Esker"
).split()
REGIONS = ("coast", "hills", "lowlands", "isles")
CHANNELS = ("email", "web form", "phone note")
COLOURS = ("moss green", "slate blue", "barley gold", "rowan red", "chalk white", "peat brown")


@dataclass(frozen=True)
class Family:
    """One product family: its products with their price in pence, its parts and its faults."""

    products: dict[str, int]
    parts: tuple[str, ...]
    faults: tuple[str, ...]


FAMILIES = (
    Family(
        {"Glimmer Wren": 2450, "Glimmer Heron": 3900, "Glimmer Otter": 5200},
        ("wick cap", "carry ring", "glass collar"),
        ("the shade has a crack", "the light dies after a minute", "the switch does not click", "it flickers"),
    ),
    Family(
        {"Cinder Two": 4800, "Cinder Five": 7600, "Cinder Coal": 3350},
        ("fuel valve", "gasket ring", "pot cross"),
        ("the flame goes out", "one leg is bent", "the valve leaks", "the plate has a long split"),
    ),
    Family(
        {"Burrow Hare": 11900, "Burrow Badger": 16400, "Burrow Vole": 4250},
        ("peg bag", "guy line", "pole sleeve"),
        ("a seam has opened", "the zip is stuck", "rain comes through the roof", "a pole has snapped"),
    ),
    Family(
        {"Tarn Pike": 1850, "Tarn Minnow": 1200, "Tarn Perch": 3600},
        ("screw lid", "carry strap", "drip tray"),
        ("it leaks at the neck", "the handle came off", "the coating is peeling", "the lid does not close"),
    ),
)
NEW_PRODUCT = "Burrow Stoat"  # sold since era 3, so no train row names it
NEW_PRODUCT_PENCE = 8900


@dataclass
class Desk:
    """The tickets written so far and the key of what was planted in them."""

    rng: random.Random
    wording: Record
    rows: list[Record] = field(default_factory=list)
    facts: list[Record] = field(default_factory=list)
    planted: Record = field(default_factory=dict)

    def pick(self, options: Sequence[Item]) -> Item:
        """One of `options`; only `random()` is used, whose stream is the same in every Python version."""
        return options[int(self.rng.random() * len(options))]

    def between(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + int(self.rng.random() * (high - low + 1))

    def some(self, indices: list[int], count: int) -> list[int]:
        """`count` different members of `indices`, in random order."""
        return sorted(indices, key=lambda _: self.rng.random())[:count]


def money(pence: int) -> str:
    """Pence as the shop writes money: GBP 12.50."""
    return f"GBP {pence // 100}.{pence % 100:02d}"


def make_customers(desk: Desk) -> list[Record]:
    """Customers with different full names; one in four writes often."""
    names: dict[tuple[str, str], None] = {}
    while len(names) < NUM_CUSTOMERS:
        names[(desk.pick(FIRST), desk.pick(LAST))] = None
    customers = []
    for number, (first, last) in enumerate(names):
        often = 4 if desk.rng.random() < 0.25 else 1
        customer = {"customer": f"c-{number + 1:03d}", "first": first, "last": last, "region": desk.pick(REGIONS)}
        customers += [customer] * often
    return customers


def draw_facts(desk: Desk, *, era: int, intent: str) -> Record:
    """What happened: product, prices, days, fault, part and colours of one ticket."""
    family = desk.pick(FAMILIES)
    product = desk.pick(tuple(family.products))
    price = family.products[product]
    if era == 3 and desk.rng.random() < 0.08:
        family, product, price = FAMILIES[2], NEW_PRODUCT, NEW_PRODUCT_PENCE
    price += desk.pick((0, 50, 95, 125, 240, 310, 475, 520, 660, 785))
    total = price + desk.pick((350, 495, 575, 640, 820))
    if intent == "late":
        days = desk.between(4, LOST_AFTER_DAYS) if desk.rng.random() < 0.5 else desk.between(LOST_AFTER_DAYS + 1, 24)
    else:
        early = desk.rng.random() < 0.55
        days = desk.between(3, HEARTH_WINDOW_DAYS) if early else desk.between(HEARTH_WINDOW_DAYS + 1, 85)
    have = desk.pick(COLOURS)
    wanted = desk.pick(tuple(c for c in COLOURS if c != have))
    return {
        "product": product, "price": money(price), "total": money(total), "price_n": money(price)[4:],
        "total_n": money(total)[4:], "reduced": money(price - price // 10), "days": days,
        "fault": desk.pick(family.faults), "part": desk.pick(family.parts), "have": have, "wanted": wanted,
    }  # fmt: skip


def settle(intent: str, days: int, *, policy: str) -> str:
    """The outcome the desk's rules give: the one place where the policy is written as code."""
    if policy == "refund-v1":
        if days <= OLD_WINDOW_DAYS:
            return "v1_refund"
        return "v1_mend" if intent == "faulty" else "v1_credit"
    inside = days <= HEARTH_WINDOW_DAYS
    return {
        "return": "refund_item" if inside else "credit_item",
        "faulty": "refund_total" if inside else "mend",
        "late": "trace" if days <= LOST_AFTER_DAYS else "resend",
        "billing": "refund_double",
        "swap": "swap" if inside else "swap_credit",
        "missing_part": "part",
    }[intent]


def write_reply(desk: Desk, slots: Record, outcome: str) -> str:
    """A reply of three parts: opening, settlement, sign-off."""
    reply = desk.wording["reply"]
    pools = (reply["opening"], reply["outcome"][outcome]["settle"])
    body = " ".join(desk.pick(pool) for pool in pools).format(**slots)
    return f"{body}\n{reply['sign_off']}"


def open_times(desk: Desk, era: int) -> list[datetime]:
    """Sorted opening times of one era, whole minutes, office hours not respected by customers."""
    first, last, count = ERAS[era]
    span_minutes = int((last - first).total_seconds() // 60) + 24 * 60
    return sorted(first + timedelta(minutes=desk.between(0, span_minutes - 1)) for _ in range(count))


def write_era(desk: Desk, era: int, customers: list[Record]) -> None:
    """Append the tickets of one era; intents and wordings take turns so that none is rare."""
    turns: dict[str, int] = dict.fromkeys(INTENTS, 0)
    deck: list[str] = []
    for opened_at in open_times(desk, era):
        deck = deck or sorted(INTENTS, key=lambda _: desk.rng.random())
        intent = deck.pop()
        pool = [t for t in desk.wording["ticket"] if t["intent"] == intent and t["era"] == era]
        turn = turns[intent] % len(pool)
        turns[intent] += 1
        customer = desk.pick(customers)
        policy = "general" if intent not in REFUND_INTENTS else "refund-v2"
        if policy == "refund-v2" and opened_at < POLICY_CHANGED:
            policy = "refund-v1"
        facts = draw_facts(desk, era=era, intent=intent)
        ref = f"LK-{40000 + 11 * len(desk.rows) + desk.between(0, 10)}"
        slots = {**facts, "first": customer["first"], "ref": ref, "channel": desk.pick(CHANNELS)}
        head = f"{ref}, from {customer['first']} {customer['last']} by {slots['channel']}"
        outcome = settle(intent, facts["days"], policy=policy)
        desk.facts.append({**slots, "outcome": outcome, "era": era})
        desk.rows.append({
            "opened_at": opened_at, "customer": customer["customer"], "region": customer["region"],
            "channel": slots["channel"], "intent": intent, "policy": policy,
            "wording": f"{intent}-{era}{'abcde'[turn]}",
            "ticket": f"{head}\n{pool[turn]['text'].format(**facts)}", "reply": write_reply(desk, slots, outcome),
        })  # fmt: skip


def luhn_digit(digits: str) -> str:
    """The check digit that makes `digits` plus itself a valid card number."""
    total = 0
    for place, char in enumerate(reversed(digits)):
        value = int(char) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


def invent_private(desk: Desk, kind: str, slots: Record) -> str:
    """One piece of invented private data that passes its checksum."""
    if kind == "email":
        return f"{slots['first'].lower()}{desk.between(10, 99)}@example.{desk.pick(('org', 'net', 'com'))}"
    if kind == "phone":
        return desk.pick(("07700 900", "01632 960")) + f"{desk.between(0, 999):03d}"
    if kind == "card":
        digits = "400000000000" + f"{desk.between(0, 999):03d}"
        digits += luhn_digit(digits)
        return " ".join(digits[i : i + 4] for i in range(0, 16, 4))
    if kind == "iban":
        bank, account = "LKXX", f"000000{desk.between(0, 99999999):08d}"
        letters = "".join(str(int(c, 36)) for c in f"{bank}{account}GB00")
        text = f"GB{98 - int(letters) % 97:02d}{bank}{account}"
        return " ".join(text[i : i + 4] for i in range(0, len(text), 4))
    return desk.pick(("192.0.2.", "198.51.100.", "203.0.113.")) + str(desk.between(1, 254))


def plant_private(desk: Desk) -> None:
    """Add one sentence with private data to tickets of every era."""
    chosen = desk.some(list(range(len(desk.rows))), sum(PRIVATE.values()))
    desk.planted["private"] = {}
    for kind, count in PRIVATE.items():
        for _ in range(count):
            index = chosen.pop()
            pool = desk.wording["private"]["new" if desk.facts[index]["era"] == 3 else "old"][kind]
            desk.rows[index]["ticket"] += " " + desk.pick(pool).format(
                value=invent_private(desk, kind, desk.facts[index])
            )
            desk.planted["private"][index] = kind


def spoil(desk: Desk, index: int, kind: str) -> None:
    """Break one convention in the reply of row `index`."""
    row, slots = desk.rows[index], desk.facts[index]
    reply, sign_off = row["reply"], desk.wording["reply"]["sign_off"]
    number = int(slots["ref"][3:])
    other = desk.pick(tuple(n for n in FIRST if n != slots["first"]))
    row["reply"] = {
        "wrong_name": reply.replace(f"Hello {slots['first']},", f"Hello {other},"),
        "wrong_reference": reply.replace(slots["ref"], f"LK-{number + 90}"),
        "promised_date": reply.replace(f"\n{sign_off}", f" All of it will be done by Friday.\n{sign_off}"),
        "blame": reply.replace(f"\n{sign_off}", f" You should have looked more closely.\n{sign_off}"),
        "sign_off": reply.replace(sign_off, "Cheers, your shop"),
        "money_format": reply.replace(f"\n{sign_off}", f" That makes {slots['price_n']} pounds.\n{sign_off}"),
    }[kind]


def plant_mistakes(desk: Desk) -> None:
    """Break conventions, swap labels and settle wrongly in rows that are neither stale nor copied."""
    free = [i for i, row in enumerate(desk.rows) if row["policy"] != "refund-v1" and i not in desk.planted["private"]]
    with_money = {i for i in free if "GBP " in desk.rows[i]["reply"]}
    decided = {"return": "credit_item", "swap": "swap_credit"}
    chosen = desk.some(free, len(free))
    wrong_reply, wrong_label, wrong_settlement = {}, {}, {}
    for kind, count in WRONG_REPLIES.items():
        for _ in range(count):
            index = next(i for i in chosen if kind != "money_format" or i in with_money)
            chosen.remove(index)
            spoil(desk, index, kind)
            wrong_reply[index] = kind
    for _ in range(NUM_WRONG_LABELS):
        index = chosen.pop()
        wrong_label[index] = desk.rows[index]["intent"]
        desk.rows[index]["intent"] = desk.pick(tuple(i for i in INTENTS if i != wrong_label[index]))
    for _ in range(NUM_WRONG_SETTLEMENTS):
        inside = HEARTH_WINDOW_DAYS
        index = next(i for i in chosen if desk.rows[i]["intent"] in decided and desk.facts[i]["days"] <= inside)
        chosen.remove(index)
        outcome = decided[desk.rows[index]["intent"]]
        wrong_settlement[index] = desk.facts[index]["outcome"]
        desk.rows[index]["reply"] = write_reply(desk, desk.facts[index], outcome)
    desk.planted |= {"wrong_reply": wrong_reply, "wrong_label": wrong_label, "wrong_settlement": wrong_settlement}


def plant_copies(desk: Desk) -> list[tuple[Record, int, str]]:
    """Copies of era-1 tickets sent again within two days: (row, index of the original, exact or near)."""
    touched = set().union(*(desk.planted[name] for name in desk.planted))
    free = [
        i for i, row in enumerate(desk.rows)
        if desk.facts[i]["era"] == 1 and row["policy"] != "refund-v1" and i not in touched
        and row["opened_at"] < ERAS[1][1] - timedelta(days=3)
    ]  # fmt: skip
    copies = []
    for turn, index in enumerate(desk.some(free, NUM_NEAR_DUPLICATES + NUM_EXACT_DUPLICATES)):
        kind = "near" if turn < NUM_NEAR_DUPLICATES else "exact"
        row = dict(desk.rows[index])
        row["opened_at"] += timedelta(minutes=desk.between(2, 2880))
        if kind == "near":
            row["ticket"] += " " + desk.pick(desk.wording["again"]["texts"])
        copies.append((row, index, kind))
    return copies


def build() -> tuple[list[Record], Record]:
    """All rows in order of time, and the key of what was planted, by row id."""
    wording = tomllib.loads((HERE / "wording.toml").read_text(encoding="ascii"))
    desk = Desk(rng=random.Random(SEED), wording=wording)
    customers = make_customers(desk)
    for era in ERAS:
        write_era(desk, era, customers)
    plant_private(desk)
    plant_mistakes(desk)
    copies = plant_copies(desk)
    entries = [(row, i) for i, row in enumerate(desk.rows)] + [(copy[0], -1 - n) for n, copy in enumerate(copies)]
    entries.sort(key=lambda entry: entry[0]["opened_at"])
    rows, id_of = [], {}
    for number, (row, index) in enumerate(entries):
        id_of[index] = f"t-{number + 1:04d}"
        opened_at = row["opened_at"].strftime("%Y-%m-%dT%H:%M:%SZ")
        rows.append({"id": id_of[index], **row, "opened_at": opened_at})
    key: Record = {
        name: {id_of[i]: value for i, value in sorted(found.items())} for name, found in desk.planted.items()
    }
    for kind in ("near", "exact"):
        key[f"{kind}_copy_of"] = {id_of[-1 - n]: id_of[c[1]] for n, c in enumerate(copies) if c[2] == kind}
    key["stale"] = [row["id"] for row in rows if row["policy"] == "refund-v1"]
    return rows, key


def render() -> dict[str, str]:
    """The text of every generated file, by its path relative to this folder."""
    rows, key = build()
    return {
        "data/tickets.jsonl": "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows),
        "planted.json": json.dumps(key, indent=1, sort_keys=True) + "\n",
    }


if __name__ == "__main__":
    for path, text in render().items():
        (HERE / path).parent.mkdir(exist_ok=True)
        (HERE / path).write_text(text, encoding="ascii", newline="\n")
