"""Smoothing by a dynamic program, against all sequences, a plain table, and itself in portions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

import gslm.units
from gslm import pipeline
from gslm.audio import write_wav
from gslm.corpus import Corpus
from gslm.errors import UserError
from gslm.pipeline import UnitSettings
from gslm.units import commands
from gslm.units.coarsening import chosen_coarsening
from gslm.units.encoders import MFCCEncoder
from gslm.units.quantizers import smoothing
from gslm.units.quantizers.kmeans import assign
from gslm.units.quantizers.smoothing import Smoothing, smooth, spacing
from tests.conftest import sweep


def _rows(n: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def _wandering(n: int, dim: int, seed: int) -> torch.Tensor:
    """Rows that stay alike for a while, as frames of speech do."""
    return _rows(n, dim, seed) + 3 * _rows(-(-n // 7), dim, seed + 1).repeat_interleave(7, 0)[:n]


def _ids(runs) -> np.ndarray:
    return np.concatenate([np.repeat(ids, durations) for ids, durations in runs])


def _cost(ids, rows: torch.Tensor, centroids: torch.Tensor, penalty: float) -> float:
    distances = torch.cdist(rows.double(), centroids.double()).square().numpy()
    ids = np.asarray(ids)
    return float(distances[np.arange(len(ids)), ids].sum() + penalty * (ids[1:] != ids[:-1]).sum())


def _table(rows: torch.Tensor, centroids: torch.Tensor, penalty: float) -> np.ndarray:
    """Viterbi's algorithm with its whole table, in float64."""
    distances = torch.cdist(rows.double(), centroids.double()).square().numpy()
    changing = penalty * (1 - np.eye(len(centroids)))
    costs, came_from = distances[0], []
    for row in distances[1:]:
        ways = costs[:, None] + changing
        came_from.append(ways.argmin(0))
        costs = ways.min(0) + row
    path = [int(costs.argmin())]
    for before in reversed(came_from):
        path.append(int(before[path[-1]]))
    return np.array(path[::-1])


def _portions(rows: torch.Tensor, seed: int) -> list[torch.Tensor]:
    random = np.random.default_rng(seed)
    cuts = np.sort(random.integers(0, len(rows) + 1, 9))
    return list(torch.tensor_split(rows, cuts.tolist()))


@pytest.mark.parametrize("penalty", [0.0, 0.3, 1.0, 3.0, 100.0])
@pytest.mark.parametrize("seed", range(5))
def test_no_sequence_at_all_is_cheaper(penalty, seed):
    rows, centroids = _rows(7, 2, seed), _rows(3, 2, 100 + seed)
    ours = _ids(smooth([rows], centroids, penalty))
    cheapest = min(_cost(ids, rows, centroids, penalty) for ids in product(range(3), repeat=7))
    assert _cost(ours, rows, centroids, penalty) == pytest.approx(cheapest, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_long_sequences_are_those_of_the_whole_table(seed):
    rows, centroids = _wandering(900, 8, seed), 2 * _rows(20, 8, 50 + seed)
    for penalty in (2.0, 10.0, 40.0):
        ours = _ids(smooth([rows], centroids, penalty))
        assert np.array_equal(ours, _table(rows, centroids, penalty))


@pytest.mark.parametrize("window", [40, 3000])
def test_how_frames_are_parted_does_not_matter(window):
    rows, centroids = _wandering(2000, 8, 0), 2 * _rows(50, 8, 9)
    whole = _ids(smooth([rows], centroids, 20.0, window))
    for seed in range(3):
        parts = _portions(rows, seed)
        assert np.array_equal(_ids(smooth(parts, centroids, 20.0, window)), whole)
    one_by_one = smooth(rows.split(1), centroids, 20.0, window)
    assert np.array_equal(_ids(one_by_one), whole)


def test_a_window_changes_nothing_where_paths_met_in_it():
    rows, centroids = _wandering(2000, 8, 0), 2 * _rows(50, 8, 9)
    exact = _table(rows, centroids, 10.0)
    assert np.array_equal(_ids(smooth(rows.split(10), centroids, 10.0, 60)), exact)


def test_features_of_sounds_come_out_alike_in_portions_and_whole():
    frames = MFCCEncoder()([torch.from_numpy(sweep(20, 3))])[0]
    centroids = frames[::31]
    penalty = spacing(centroids)
    whole = _ids(smooth([frames], centroids, penalty))
    assert np.array_equal(whole, _table(frames, centroids, penalty))
    assert np.array_equal(_ids(smooth(_portions(frames, 1), centroids, penalty)), whole)
    assert np.count_nonzero(np.diff(whole)) < np.count_nonzero(np.diff(assign(frames, centroids)))


def test_runs_are_given_before_the_recording_ends():
    centroids = 2 * _rows(50, 8, 9)
    given = []

    def parts():
        for part in _wandering(2000, 8, 0).split(100):
            given.append(0)
            yield part

    n_frames = 0
    for ids, durations in smooth(parts(), centroids, 10.0):
        assert len(ids) == len(durations)
        n_frames += durations.sum()
        assert n_frames >= 100 * (len(given) - 1)
    assert n_frames == 2000


def test_a_sound_that_never_ends_is_decided_by_the_window():
    rows = torch.zeros(1000, 4)
    centroids = torch.stack([torch.zeros(4), torch.ones(4), -torch.ones(4)])
    runs = list(smooth(rows.split(7), centroids, 5.0, window=50))
    assert (_ids(runs) == 0).all()
    assert len(_ids(runs)) == 1000
    assert max(durations.max() for _, durations in runs) == 50


def test_two_sounds_that_cost_the_same_stay_within_the_window():
    """Neither of two centroids ever wins: the undecided frames must not grow."""
    rows, centroids = torch.zeros(500, 1), torch.tensor([[1.0], [-1.0]])
    path = smoothing._CheapestPath(2, 5.0, 60)
    n_decided = 0
    for row in rows:
        distances = (row - centroids).square().sum(1)[None].numpy()
        n_decided += sum(int(durations.sum()) for _, durations in path.extend(distances))
        assert path.n_frames <= 60
    assert n_decided + path.n_frames == 500


def test_no_penalty_leaves_the_nearest_centroids():
    rows, centroids = _rows(300, 4, 0), _rows(30, 4, 1)
    assert np.array_equal(_ids(smooth([rows], centroids, 0.0)), assign(rows, centroids))


def test_an_endless_penalty_leaves_the_one_best_unit():
    rows, centroids = _rows(300, 4, 0), _rows(30, 4, 1)
    best = torch.cdist(rows, centroids).square().sum(0).argmin()
    assert set(_ids(smooth([rows], centroids, 1e9)).tolist()) == {int(best)}


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_features_far_from_zero_are_smoothed_alike(offset):
    rows, centroids = _wandering(500, 8, 0), 2 * _rows(20, 8, 9)
    moved = _ids(smooth([rows + offset], centroids + offset, 10.0))
    assert np.array_equal(moved, _table(rows, centroids, 10.0))


def test_no_frames_make_no_runs_and_one_frame_makes_one():
    centroids = _rows(5, 4, 0)
    assert list(smooth([], centroids, 1.0)) == []
    assert list(smooth([torch.zeros(0, 4)], centroids, 1.0)) == []
    ((ids, durations),) = smooth([centroids[3:4]], centroids, 1.0)
    assert (ids.tolist(), durations.tolist()) == ([3], [1])
    assert _ids(smooth([_rows(9, 4, 1)], centroids[:1], 1.0)).tolist() == [0] * 9


def test_spacing_is_the_mean_squared_distance_to_the_nearest_other():
    line = torch.tensor([[0.0], [1.0], [3.0], [10.0]])
    assert spacing(line) == pytest.approx((1 + 1 + 4 + 49) / 4)
    assert spacing(line[:1]) == 0
    many = _rows(2500, 3, 0)
    distances = torch.cdist(many.double(), many.double()).fill_diagonal_(torch.inf)
    assert spacing(many) == pytest.approx(float(distances.amin(1).square().mean()), rel=1e-6)


@pytest.mark.parametrize("penalty", [-1.0, 0.0, float("nan"), float("inf")])
def test_penalties_that_are_none_are_one_line_errors(penalty):
    with pytest.raises(UserError, match="penalty") as error:
        Smoothing(penalty)
    assert "\n" not in str(error.value)


def test_commands_fit_smooth_and_encode(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        write_wav(tmp_path / "audio" / f"{i}.wav", sweep(3, i))
    fit = ["fit", "audio", "--encoder", "mfcc"]
    for line in (
        [*fit, "-o", "hard", "--k", "20"],
        [*fit, "-o", "fitted", "--k", "20", "--smooth", "0.5"],
        ["smooth", "hard", "-o", "smoothed", "--penalty", "0.5"],
        [*fit, "-o", "syllables", "--k", "8", "--syllables", "--prominence", "0.5"],
        ["encode", "audio", "--units", "hard", "-o", "c-hard", "--workers", "1"],
        ["encode", "audio", "--units", "smoothed", "-o", "c-smoothed", "--workers", "1"],
        ["encode", "audio", "--units", "syllables", "-o", "c-syllables", "--workers", "1"],
    ):
        commands.app(line, result_action="return_value")
    assert "smoothed 0.5" in capsys.readouterr().out
    hard, fitted, smoothed = (gslm.units.load(n) for n in ("hard", "fitted", "smoothed"))
    assert fitted.fingerprint == smoothed.fingerprint
    assert hard.fingerprint != smoothed.fingerprint
    sizes = [Corpus.open(f"c-{n}").n_units for n in ("hard", "smoothed", "syllables")]
    assert sizes == sorted(sizes, reverse=True)
    assert len({Corpus.open(f"c-{n}").n_frames for n in ("hard", "smoothed", "syllables")}) == 1
    with pytest.raises(UserError, match="not both"):
        commands.fit(tmp_path, output=tmp_path, smooth=1.0, syllables=True)


@pytest.mark.parametrize(
    "settings", [{"smoothing": 0.5, "k": 20}, {"syllables": True, "k": 6}, {"k": 20}]
)
def test_a_whole_training_takes_the_settings(tmp_path, settings):
    write_wav(tmp_path / "audio" / "a.wav", sweep(4, 1))
    wanted = UnitSettings(encoder="mfcc", **settings)
    pipeline._make_units(tmp_path / "audio", ["a.wav"], wanted, tmp_path / "units", set())
    made = gslm.units.load(tmp_path / "units")
    expected = chosen_coarsening(wanted.smoothing, wanted.syllables)
    assert made.coarsening == expected
    assert made.n_units == wanted.k
