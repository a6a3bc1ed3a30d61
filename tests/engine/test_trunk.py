"""The trunk cache: whose bits it keeps, what it does with damage, kills, two processes and too little room."""

from __future__ import annotations

import itertools
import json
import logging
import multiprocessing
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metier.core.errors import StoreError
from metier.engine import AdapterSpec, Handle, Linear, close, forward_backward, load, logprobs, make_batch
from metier.engine.form import Form
from metier.engine.llama import Stack
from metier.engine.load import DtypeName
from metier.engine.loop import trainer_of
from metier.engine.trunk import BIN_TOKENS, Trunk, _bins, open_trunk, row_key
from metier.engine.trunk_files import TrunkFiles, folder_bytes, make_room
from metier.render import RenderedRow
from tests.engine.builders import random_rows, tiny_base
from tests.equivalence.test_forms import after_prefix
from tests.tune.drawn_runs import random_base

ROWS = random_rows([20, 33, 7, 50, 12, 300, 4, 28])
GIB = 2**30


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"), num_layers=4)


def loaded(base_dir: Path, *, threads: int = 1, first_layer: int = 2, dtype: DtypeName = "fp32") -> Handle:
    spec = AdapterSpec(rank=4, alpha=8.0, first_layer=first_layer)
    handle = load(base_dir, adapter=spec, seed=3, dtype=dtype, threads=threads)
    handle.require_adapter("test").masters_P.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    return handle


def filled(
    handle: Handle, rows: list[RenderedRow], trunk_dir: Path, *, prefix: tuple[int, ...] = ()
) -> tuple[Trunk, int]:
    """An open trunk with the rows' states, and how many had to be computed."""
    trunk, _ = open_trunk(handle, rows, skip=len(prefix), trunk_dir=trunk_dir, limit_bytes=GIB)
    assert trunk is not None
    trainer_of(handle).take_form(Form(trunk=trunk, prefix=prefix))
    return trunk, trunk.fill(trainer_of(handle), rows)


def step(handle: Handle, rows: list[RenderedRow]) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Loss, gradient and scores."""
    batch = make_batch(rows)
    loss = forward_backward(handle, batch, Linear()).result().loss_nats
    grad: torch.Tensor = sum(grads.flat_P.clone() for grads in trainer_of(handle).grads)  # type: ignore[assignment]  # sum of tensors is typed as int
    return loss, grad, logprobs(handle, batch).result()


def same(first: tuple[float, torch.Tensor, torch.Tensor], second: tuple[float, torch.Tensor, torch.Tensor]) -> bool:
    return first[0] == second[0] and torch.equal(first[1], second[1]) and torch.equal(first[2], second[2])


def states_path(trunk_dir: Path) -> Path:
    (path,) = trunk_dir.glob("*/states-*.bin")
    return path


def test_the_stored_states_are_the_hidden_states_of_transformers_rounded_to_bf16(
    base_dir: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    handle = loaded(base_dir)
    trunk, num = filled(handle, ROWS, tmp_path)
    assert num == len(ROWS) == len(trunk.files.views)
    peer = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32).eval()
    batch = make_batch(ROWS)
    for i, row in enumerate(ROWS):
        read = max(place for place, weight in enumerate(row.weight) if weight)
        with torch.no_grad():
            wanted = peer(torch.tensor([row.tokens[:read]]), output_hidden_states=True).hidden_states[2][0]
        states = trunk.files.views[row_key(batch, i, read, skip=0)].float()
        assert (
            float(((states - wanted).abs() / wanted.abs().clamp_min(1e-3)).max()) < 2**-8
        )  # half a step of bf16, and fp32
    close(handle)


def test_a_step_from_stored_states_is_the_step_without_up_to_their_rounding(base_dir: Path, tmp_path: Path) -> None:
    handle = loaded(base_dir, threads=2)
    whole = step(handle, ROWS)
    trainer_of(handle).discard()
    filled(handle, ROWS, tmp_path)
    stored = step(handle, ROWS)
    assert stored[0] == pytest.approx(whole[0], rel=2e-3) and stored[0] != whole[0]
    assert float((stored[1] - whole[1]).norm() / whole[1].norm()) < 0.02
    close(handle)


@pytest.mark.parametrize("prefix_tokens", [0, 40])
def test_a_cold_a_warm_and_an_emptied_cache_give_the_same_bits(
    prefix_tokens: int, base_dir: Path, tmp_path: Path
) -> None:
    rows = after_prefix(prefix_tokens, [20, 33, 7, 50, 300])
    prefix = tuple(rows[0].tokens[:prefix_tokens])
    results = []
    for trunk_dir, num_new in ((tmp_path / "a", 5), (tmp_path / "a", 0), (tmp_path / "b", 5)):
        handle = loaded(base_dir, threads=2)
        _, num = filled(handle, rows, trunk_dir, prefix=prefix)
        assert num == num_new
        results.append(step(handle, rows))
        close(handle)
    handle = loaded(base_dir, threads=2)
    trunk, _ = filled(handle, rows[:1], tmp_path / "c", prefix=prefix)  # the other rows are computed on use
    assert len(trunk.files.views) == 1
    results.append(step(handle, rows))
    close(handle)
    assert all(same(results[0], other) for other in results[1:])


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("base", ["tiny", "narrow"])
def test_a_rows_states_depend_on_its_tokens_alone_not_on_neighbours_place_or_threads(
    base: str, dtype: DtypeName, base_dir: Path, tmp_path: Path
) -> None:
    if base == "narrow":  # products as wide as those of real models
        base_dir = random_base(tmp_path / "narrow", name="narrow")
    found = []
    rng = np.random.default_rng(5)
    others = random_rows(rng.integers(4, 200, 30).tolist(), seed=9)
    mixed = [[*others, *ROWS][i] for i in rng.permutation(len(others) + len(ROWS))]
    for threads, rows in ((1, ROWS), (2, mixed), (1, ROWS[3:4]), (2, [*others[:3], ROWS[5]])):
        handle = loaded(base_dir, threads=threads, dtype=dtype)
        trunk, _ = filled(handle, rows, tmp_path / str(len(found)))
        found.append(trunk.files.views)
        close(handle)
    assert set(found[2]) < set(found[0]) < set(found[1])
    assert set(found[3]) & set(found[0])
    for views in found:
        assert all(torch.equal(views[key], found[0][key]) for key in views.keys() & found[0].keys())


def test_a_row_longer_than_a_product_is_computed_alone_and_right(base_dir: Path, tmp_path: Path) -> None:
    rows = random_rows([BIN_TOKENS + 90, 20, BIN_TOKENS + 1])
    handle = loaded(base_dir)
    whole = step(handle, rows)
    trainer_of(handle).discard()
    trunk, num = filled(handle, rows, tmp_path)
    assert num == 3 and max(map(len, trunk.files.views.values())) > BIN_TOKENS
    assert step(handle, rows)[0] == pytest.approx(whole[0], rel=2e-3)
    close(handle)


@given(st.dictionaries(st.text(), st.integers(1, 2 * BIN_TOKENS), max_size=60))
def test_every_row_has_one_place_and_none_shares_more_than_a_product(tokens_by_key: dict[str, int]) -> None:
    bins = _bins(tokens_by_key)
    assert sorted(key for keys in bins for key in keys) == sorted(tokens_by_key)
    sums = [sum(map(tokens_by_key.__getitem__, keys)) for keys in bins]
    assert all(total <= BIN_TOKENS or len(keys) == 1 for total, keys in zip(sums, bins, strict=True))
    assert all(a + b > BIN_TOKENS for a, b in itertools.pairwise(sums)), "two neighbours would have fitted one"


def test_only_tokens_up_to_the_last_trained_one_are_stored(base_dir: Path, tmp_path: Path) -> None:
    tokens = list(range(30))
    rows = [RenderedRow("a", tokens, [0.0] * 9 + [1.0] + [0.0] * 20), RenderedRow("b", tokens[:10], [0.0] * 9 + [1.0])]
    handle = loaded(base_dir)
    trunk, num = filled(handle, rows, tmp_path)
    assert num == 1, "what the two rows read is the same"
    (states,) = trunk.files.views.values()
    assert states.shape == (9, 48)
    assert states_path(tmp_path).stat().st_size == 9 * 48 * 2
    close(handle)


def test_another_base_and_another_depth_have_folders_of_their_own(base_dir: Path, tmp_path: Path) -> None:
    other_base = tiny_base(tmp_path / "other", num_layers=4, seed=1)
    for folder, first_layer in ((base_dir, 2), (base_dir, 1), (other_base, 2)):
        handle = loaded(folder, first_layer=first_layer)
        assert filled(handle, ROWS, tmp_path / "trunk")[1] == len(ROWS)
        close(handle)
    assert len(list((tmp_path / "trunk").iterdir())) == 3


def damage(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["flipped", "cut", "index", "other width"])
def test_a_damaged_cache_is_noticed_named_and_computed_again(
    how: str, base_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handle = loaded(base_dir)
    filled(handle, ROWS, tmp_path)
    expected = step(handle, ROWS)
    close(handle)
    path = states_path(tmp_path)
    index_path = path.with_name("index.json")
    if how == "flipped":
        damage(path, 1000)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif how == "index":
        index_path.write_bytes(index_path.read_bytes()[:-20])
    else:
        index_path.write_text(json.dumps({**json.loads(index_path.read_text()), "width": 47}))
    handle = loaded(base_dir)
    with caplog.at_level(logging.WARNING):
        _, num = filled(handle, ROWS, tmp_path)
    assert num == (1 if how in ("flipped", "cut") else len(ROWS))
    (record,) = caplog.records
    assert "computed again" in record.message
    assert str(path if how in ("flipped", "cut") else index_path) in record.message
    if how in ("flipped", "cut"):
        assert "1 of 8 cached rows are damaged" in record.message
    assert same(step(handle, ROWS), expected)
    close(handle)
    handle = loaded(base_dir)
    assert filled(handle, ROWS, tmp_path)[1] == 0
    close(handle)


def fill_in_child(base_dir: Path, trunk_dir: Path, rows: list[RenderedRow], kill: bool) -> None:
    torch.set_num_threads(1)
    if kill:  # after the states are on the disk, before the index names them
        TrunkFiles._write_index = lambda self, index: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]  # in a child alone
    handle = loaded(base_dir)
    filled(handle, rows, trunk_dir)
    close(handle)


def child(*args: object) -> multiprocessing.Process:
    process = multiprocessing.get_context("spawn").Process(target=fill_in_child, args=args)  # type: ignore[attr-defined]  # typeshed
    process.start()
    return process  # type: ignore[no-any-return]  # typeshed


def test_a_killed_writer_leaves_nothing_that_looks_finished(base_dir: Path, tmp_path: Path) -> None:
    handle = loaded(base_dir)
    filled(handle, ROWS[:3], tmp_path)
    size = states_path(tmp_path).stat().st_size
    process = child(base_dir, tmp_path, ROWS, True)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert states_path(tmp_path).stat().st_size > size, "the child must have been killed while it wrote"
    trunk, num = filled(handle, ROWS, tmp_path)
    assert num == len(ROWS) - 3
    indexed = sum(
        entry[1] for entry in json.loads(states_path(tmp_path).with_name("index.json").read_text())["rows"].values()
    )
    assert states_path(tmp_path).stat().st_size == indexed * trunk.files.token_bytes
    close(handle)


def test_two_processes_share_one_cache(base_dir: Path, tmp_path: Path) -> None:
    processes = [child(base_dir, tmp_path, rows, False) for rows in (ROWS[:6], ROWS[2:])]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    handle = loaded(base_dir)
    trunk, num = filled(handle, ROWS, tmp_path)
    assert num == 0
    total = sum(len(states) for states in trunk.files.views.values())
    assert states_path(tmp_path).stat().st_size == total * trunk.files.token_bytes, "no row is stored twice"
    close(handle)


def write_past_limit(base_dir: Path, trunk_dir: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    handle = loaded(base_dir)
    try:
        filled(handle, ROWS, trunk_dir)
    except StoreError as err:
        os._exit(7 if "could not be written" in str(err) else 8)
    os._exit(9)


def test_a_file_that_cannot_grow_is_told_and_what_was_stored_stays(base_dir: Path, tmp_path: Path) -> None:
    handle = loaded(base_dir)
    filled(handle, ROWS[:3], tmp_path)
    process = multiprocessing.get_context("spawn").Process(target=write_past_limit, args=(base_dir, tmp_path))
    process.start()
    process.join()
    assert process.exitcode == 7
    assert filled(handle, ROWS[:3], tmp_path)[1] == 0
    assert filled(handle, ROWS, tmp_path)[1] == 5
    close(handle)


def test_rows_over_the_limit_are_not_stored_and_the_bytes_are_told(base_dir: Path, tmp_path: Path) -> None:
    handle = loaded(base_dir)
    read = [max(i for i, weight in enumerate(row.weight) if weight) for row in ROWS]
    needed = sum(read) * 48 * 2
    assert open_trunk(handle, ROWS, skip=0, trunk_dir=tmp_path, limit_bytes=needed - 1) == (None, needed)
    assert list(tmp_path.iterdir()) == []
    trunk, told = open_trunk(handle, ROWS, skip=0, trunk_dir=tmp_path, limit_bytes=needed)
    assert trunk is not None and told == needed
    trunk.files.close()
    close(handle)


def test_the_least_recently_used_is_evicted_and_what_a_run_uses_is_not(base_dir: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("old", "older", "used")):
        files = TrunkFiles(tmp_path / name, 48)
        files.append({"row": torch.zeros(100, 48, dtype=torch.bfloat16)})
        if name != "used":
            files.close()  # the last one stays open
        os.utime(tmp_path / name / "in_use", (1000 + [2, 1, 0][number],) * 2)
    mine = tmp_path / "mine"
    mine.mkdir()
    each = folder_bytes(tmp_path / "old")
    assert make_room(tmp_path, mine, wanted_bytes=each, limit_bytes=4 * each)
    assert len(list(tmp_path.iterdir())) == 4, "there was room"
    assert make_room(tmp_path, mine, wanted_bytes=each, limit_bytes=3 * each)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "old", "used"]
    assert not make_room(tmp_path, mine, wanted_bytes=each, limit_bytes=each)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "used"]
    files.close()
    assert not make_room(tmp_path, mine, wanted_bytes=10**18, limit_bytes=10**19), "no disk is that large"


def test_rows_nobody_wants_make_room_for_those_of_this_run(base_dir: Path, tmp_path: Path) -> None:
    handle = loaded(base_dir)
    trunk, _ = filled(handle, ROWS, tmp_path)
    views = dict(trunk.files.views)
    other = [*ROWS[4:], *random_rows([40], seed=7)]
    held = states_path(tmp_path).stat().st_size
    again, _ = open_trunk(handle, other, skip=0, trunk_dir=tmp_path, limit_bytes=held)
    assert again is not None
    assert again.fill(trainer_of(handle), other) == 1
    assert states_path(tmp_path).stat().st_size < held
    for key, states in views.items():
        assert torch.equal(states, trunk.files.views[key]), "what the first run has mapped stays as it is"
        assert key not in again.files.views or torch.equal(again.files.views[key], states)
    again.files.close()
    close(handle)


def test_states_are_computed_on_one_thread_whatever_computes_them(
    base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, threads = Stack.states, []

    def seen(self: Stack, *arguments: object, **named: object) -> torch.Tensor:
        threads.append(torch.get_num_threads())
        return real(self, *arguments, **named)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(Stack, "states", seen)
    handle = loaded(base_dir, threads=2)
    trainer = trainer_of(handle)
    trainer.prepare(2)
    for pool in trainer.pools:
        pool.submit(torch.set_num_threads, 2).result()
    filled(handle, ROWS[:2], tmp_path)
    assert threads == [1], "in bulk, both in one product"
    logprobs(handle, make_batch(ROWS[2:3])).result()
    assert threads == [1, 1], "a row that is not stored, while its one worker has both cores"
    close(handle)


def test_another_precision_has_a_folder_of_its_own(base_dir: Path, tmp_path: Path) -> None:
    for dtype in ("fp32", "bf16"):
        spec = AdapterSpec(rank=4, alpha=8.0, first_layer=2)
        handle = load(base_dir, adapter=spec, seed=3, dtype=dtype, threads=1)  # type: ignore[arg-type]  # its names
        assert filled(handle, ROWS, tmp_path)[1] == len(ROWS)
        close(handle)
    assert len(list(tmp_path.iterdir())) == 2


def test_states_after_a_shared_prefix_are_other_than_those_of_the_whole_row(base_dir: Path, tmp_path: Path) -> None:
    rows = after_prefix(40, [20, 33, 7])
    prefix, results = tuple(rows[0].tokens[:40]), []
    for skip in (prefix, (), prefix):
        handle = loaded(base_dir)
        trunk, num = filled(handle, rows, tmp_path, prefix=skip)
        assert num == (len(rows) if len(results) < 2 else 0)
        longest = max(max(i for i, weight in enumerate(row.weight) if weight) for row in rows)
        assert max(map(len, trunk.files.views.values())) == longest - len(skip)
        results.append(step(handle, rows))
        close(handle)
    assert same(results[0], results[2])
    assert results[1][0] == pytest.approx(results[0][0], rel=2e-3)
