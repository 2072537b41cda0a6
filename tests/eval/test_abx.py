from functools import cache

import numpy as np
import pytest

from gslm.errors import UserError
from gslm.eval import abx_blocks, abx_distances
from gslm.eval.abx import AbxScorer, AbxTask, phone_task
from gslm.eval.abx_items import Tokens, slice_features
from tests.eval.abx_reference import averaged, cell_errors, make_items, rows_of, token_distances

FEATURES = ("angular", "cosine", "euclidean", "kl")
UNITS = ("one-hot", "edit")


def made(n=45, seed=0, distance="angular", **options):
    """Items and their sliced frames: probabilities, or units of a few kinds."""
    random = np.random.default_rng(seed)
    items = make_items(n, random, **options)
    frames = {}
    for name in np.unique(items.files).tolist():
        weights = random.random((200, 5)) ** 3
        frames[name] = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
        if distance in UNITS:
            frames[name] = np.repeat(random.integers(0, 4, 100), 2)
    return items, slice_features(items, frames, frame_rate=50)


def frames_of(tokens):
    return [tokens.frames[s : s + n] for s, n in zip(tokens.starts, tokens.lengths, strict=True)]


def expected(items, tokens, task, distance="angular"):
    return cell_errors(rows_of(items), token_distances(distance, frames_of(tokens)), task)


def require_equal(found, cells, task):
    pairs = averaged(cells, task)
    got = {(pair.x, pair.b): pair.error_rate for pair in found.phone_pairs()}
    assert got == pytest.approx(pairs, abs=1e-9)
    assert found.error_rate == pytest.approx(np.mean(list(pairs.values())), abs=1e-9)
    assert found.n_cells == len(cells)
    assert found.n_triplets == sum(size for _, size in cells.values())


@cache
def made_with_distances(distance):
    items, tokens = made(seed=len(distance), distance=distance)
    return items, tokens, token_distances(distance, frames_of(tokens))


@pytest.mark.parametrize("distance", FEATURES + UNITS)
@pytest.mark.parametrize("speaker", ["within", "across", "any"])
@pytest.mark.parametrize("context", ["within", "any"])
def test_every_triplet_is_counted_as_by_hand(distance, speaker, context):
    items, tokens, far = made_with_distances(distance)
    task = phone_task(speaker, context)
    found = AbxScorer(items, task)(tokens, distance, threads=1)
    cells = cell_errors(rows_of(items), far, task)
    assert len(cells) >= 6
    require_equal(found, cells, task)
    assert found.n_items + found.n_empty == len(items)


@pytest.mark.parametrize(
    "task",
    [
        AbxTask("speaker", ("phone",)),
        AbxTask("speaker", (), ("phone",)),
        AbxTask("phone", ("speaker",), ("prev-phone",)),
        AbxTask("phone", (), ("speaker", "prev-phone")),
        AbxTask("phone", (), ()),
    ],
)
def test_any_columns_can_be_on_by_and_across(task):
    items, tokens = made(60, seed=7, distance="one-hot")
    found = AbxScorer(items, task)(tokens)
    require_equal(found, expected(items, tokens, task, "one-hot"), task)


def test_ties_count_half():
    items, tokens = made(distance="one-hot")
    same = Tokens(np.zeros_like(tokens.frames), tokens.starts, tokens.lengths)
    for distance in UNITS:
        assert AbxScorer(items)(same, distance).error_rate == 0.5


def test_phones_apart_make_no_errors():
    items, tokens = made(80, seed=3)
    phone = np.unique(items.column("phone"), return_inverse=True)[1]
    frames = [np.full(n, p) for n, p in zip(tokens.lengths, phone, strict=True)]
    starts = np.cumsum(tokens.lengths) - tokens.lengths
    apart = Tokens(np.concatenate(frames), starts, tokens.lengths)
    for speaker in ("within", "across", "any"):
        assert AbxScorer(items, phone_task(speaker))(apart).error_rate == 0


@pytest.mark.parametrize("context", ["within", "any"])
@pytest.mark.parametrize("speaker", ["within", "across"])
def test_small_tables_threads_and_many_alike_change_nothing(monkeypatch, speaker, context):
    items, tokens = made(80, seed=5, n_contexts=1, n_phones=2)
    task = phone_task(speaker, context)
    expected = AbxScorer(items, task)(tokens, threads=1)
    monkeypatch.setattr(abx_blocks, "_MATRIX", 700)
    monkeypatch.setattr(abx_blocks, "_TILE_VALUES", 3000)
    monkeypatch.setattr(abx_blocks, "_TILE_PAIRS", 150)
    monkeypatch.setattr(abx_blocks, "_FEW", 3)
    monkeypatch.setattr(abx_distances, "_VALUES", 5000)
    found = AbxScorer(items, task)(tokens, threads=2)
    np.testing.assert_array_equal(found.cells.errors, expected.cells.errors)
    np.testing.assert_array_equal(found.cells.sizes, expected.cells.sizes)


def test_one_scorer_serves_many_sets_as_new_ones_would():
    items, first = made(60, seed=1, distance="edit")
    _, second = made(60, seed=2, distance="edit")
    shorter = Tokens(first.frames, first.starts, np.where(first.lengths > 3, 0, first.lengths))
    second = Tokens(first.frames[::-1].copy(), first.starts, first.lengths)
    scorer = AbxScorer(items, phone_task("across"), max_group=3, seed=4)
    for tokens in (first, second, shorter, first):
        again = AbxScorer(items, phone_task("across"), max_group=3, seed=4)(tokens)
        found = scorer(tokens)
        np.testing.assert_array_equal(found.cells.errors, again.cells.errors)
        assert (found.n_items, found.n_empty) == (again.n_items, again.n_empty)


@pytest.mark.parametrize("speaker", ["within", "across"])
def test_large_groups_are_drawn_from_once(speaker):
    items, tokens = made(70, seed=6, n_contexts=1, n_phones=2)
    task = phone_task(speaker)
    scorer = AbxScorer(items, task, max_group=4, seed=1)
    found = scorer(tokens)
    kept = np.isin(np.arange(len(items)), scorer._chosen)
    groups = np.array([items.columns[name] for name in ("phone", "prev-phone", "speaker")]).T
    full = np.unique(groups[tokens.lengths > 0], axis=0, return_counts=True)[1]
    assert sorted(np.unique(groups[kept], axis=0, return_counts=True)[1]) == sorted(
        np.minimum(full, 4)
    )
    # What is left is scored exactly.
    left = Tokens(tokens.frames, tokens.starts, np.where(kept, tokens.lengths, 0))
    require_equal(found, expected(items, left, task), task)
    other = AbxScorer(items, task, max_group=4, seed=2)(tokens)
    assert other.error_rate != found.error_rate
    assert (
        AbxScorer(items, task, max_group=999)(tokens).error_rate
        == AbxScorer(items, task)(tokens).error_rate
    )


def test_each_pair_of_a_and_b_meets_few_other_speakers():
    items, tokens = made(60, seed=8, n_contexts=1, n_phones=2, n_speakers=5)
    task = phone_task("across")
    found = AbxScorer(items, task, max_x_across=2)(tokens)
    whole = expected(items, tokens, task)
    met = {}
    for i in range(found.n_cells):
        at = {name: codes[i] for name, codes in found.cells.columns.items()}
        names = found.cells.labels
        key = tuple(
            names[name.removeprefix("x:") if name != "b" else "phone"][code]
            for name, code in at.items()
        )
        phone, b, prev, next_, a, x = key
        met.setdefault((phone, a), set()).add(x)
        error, size = whole[phone, b, (prev, next_), (a,), (x,)]
        assert found.cells.errors[i] / found.cells.sizes[i] == pytest.approx(error, abs=1e-9)
        assert found.cells.sizes[i] == size
    assert {len(speakers) for speakers in met.values()} == {2}


def test_silent_frames_are_far_from_others_and_near_each_other():
    items, tokens = made(40, seed=9)
    frames = tokens.frames.copy()
    frames[::3] = 0
    silent = Tokens(frames, tokens.starts, tokens.lengths)
    require_equal(AbxScorer(items)(silent), expected(items, silent, phone_task()), phone_task())
    only = Tokens(np.zeros_like(frames), tokens.starts, tokens.lengths)
    assert AbxScorer(items)(only).error_rate == 0.5


def test_unit_length_scales_frames_before_other_distances():
    items, tokens = made(40, seed=10)
    scaled = tokens.frames * np.random.default_rng(0).uniform(0.5, 2, (len(tokens.frames), 1))
    unequal = Tokens(scaled.astype(np.float32), tokens.starts, tokens.lengths)
    norms = np.linalg.norm(tokens.frames, axis=1, keepdims=True)
    equal = Tokens(tokens.frames / norms, tokens.starts, tokens.lengths)
    found = AbxScorer(items)(unequal, "euclidean", unit_length=True).error_rate
    assert found == pytest.approx(AbxScorer(items)(equal, "euclidean").error_rate, abs=1e-3)


def test_impossible_tasks_are_told_in_one_line():
    items, tokens = made()
    for message, make in {
        "speaker 'nobody' is unknown": lambda: phone_task("nobody"),
        "context 'wide' is unknown": lambda: phone_task("within", "wide"),
        "no column 'dialect'": lambda: AbxScorer(items, AbxTask(by=("dialect",))),
        "stands twice": lambda: AbxScorer(items, AbxTask(by=("phone",))),
        "groups of at least 2": lambda: AbxScorer(items, max_group=1),
        "at least 2 tokens": lambda: AbxScorer(items, max_group=0),
        "1 other speaker": lambda: AbxScorer(items, phone_task("across"), max_x_across=0),
        "'edit' does not suit features": lambda: AbxScorer(items)(tokens, "edit"),
        "needs probabilities": lambda: AbxScorer(items)(
            Tokens(tokens.frames - 1, tokens.starts, tokens.lengths), "kl"
        ),
        "no triplet fits": lambda: AbxScorer(
            items, AbxTask(by=("phone", "speaker"), on="next-phone")
        )(tokens),
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            make()
        assert "\n" not in str(caught.value)
