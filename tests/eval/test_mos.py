import numpy as np
import pytest

from gslm.audio import write_wav
from gslm.eval.mos import ClipScore, MosReport, crop_starts, distill_mos, mean_opinion_score


def test_crops_cover_a_clip_at_most_a_second_apart():
    assert crop_starts(1) == crop_starts(122_880) == [0]
    for n_samples in (122_881, 300_000, 1_000_003):
        starts = crop_starts(n_samples)
        assert starts[0] == 0
        assert starts[-1] == n_samples - 122_880
        assert 0 < np.diff(starts).max() <= 16_000


def test_mean_has_an_interval():
    scores = [ClipScore(str(i), value, 1.0) for i, value in enumerate([2.0, 3.0, 4.0])]
    mean = MosReport(scores).mean
    assert mean.estimate == 3
    assert 2 <= mean.low < 3 < mean.high <= 4


def test_crops_give_the_models_own_score():
    torch = pytest.importorskip("torch")
    package = pytest.importorskip("distillmos")
    noise = np.random.default_rng(0).normal(0, 0.1, 150_000).astype(np.float32)
    whole = package.ConvTransformerSQAModel().eval()
    with torch.inference_mode():
        expected = whole(torch.from_numpy(noise)[None]).item()
    assert distill_mos()(noise) == pytest.approx(expected, abs=1e-4)


def test_a_folder_is_rated_clip_by_clip(tmp_path):
    pytest.importorskip("distillmos")
    write_wav(tmp_path / "a b.wav", np.zeros(1, np.float32))
    write_wav(tmp_path / "sub" / "ö.wav", np.zeros(16_000, np.float32))
    report = mean_opinion_score(tmp_path)
    assert [c.id for c in report.clips] == ["a b", "sub/ö"]
    assert all(1 <= c.mos <= 5 for c in report.clips)
