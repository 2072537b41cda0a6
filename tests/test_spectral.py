"""Short-time Fourier transforms and mel filters against torch's, scipy's and torchaudio's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gslm.spectral import hann_window, hz_to_mel, istft, mel_filterbank, mel_to_hz, stft


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("n_fft", "hop_length"), [(512, 160), (1024, 256), (64, 16), (400, 100)])
def test_stft_equals_a_slow_transform_of_each_frame(n_fft, hop_length):
    waveform = _noise(1, hop_length * 9 + 7)[0].double().numpy()
    found = stft(torch.from_numpy(waveform).float()[None], n_fft, hop_length)[0].numpy()
    n_frames = len(waveform) // hop_length
    assert found.shape == (n_fft // 2 + 1, n_frames)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    for i in range(n_frames):
        start = i * hop_length + hop_length // 2 - n_fft // 2
        frame = [
            waveform[t] if 0 <= t < len(waveform) else 0.0 for t in range(start, start + n_fft)
        ]
        assert np.allclose(found[:, i], np.fft.rfft(window * frame), atol=1e-3)


@pytest.mark.parametrize(("n_fft", "hop_length"), [(512, 160), (1024, 256), (64, 16)])
def test_istft_inverts_stft_exactly(n_fft, hop_length):
    waveform = _noise(3, hop_length * 50)
    again = istft(stft(waveform, n_fft, hop_length), n_fft, hop_length)
    assert again.shape == waveform.shape
    assert torch.allclose(again, waveform, atol=1e-5)


def test_istft_equals_torch_where_torch_can_tell():
    n_fft, hop_length, n_frames = 512, 128, 40
    spectrogram = torch.complex(_noise(2, 257, n_frames), _noise(2, 257, n_frames).flip(0))
    spectrogram[:, [0, -1]] = spectrogram[:, [0, -1]].real.to(spectrogram.dtype)
    ours = istft(spectrogram, n_fft, hop_length)
    # torch centres frame 0 on sample 0, we half a hop later; its output starts there too.
    theirs = torch.istft(
        spectrogram, n_fft, hop_length, window=hann_window(n_fft), center=True, length=None
    )
    shift = hop_length // 2
    n_common = theirs.shape[1] - n_fft
    assert torch.allclose(ours[:, shift : shift + n_common], theirs[:, :n_common], atol=1e-4)


def test_istft_equals_scipy():
    signal = pytest.importorskip("scipy.signal")
    waveform = _noise(1, 160 * 60)
    spectrogram = stft(waveform, 512, 160) * torch.linspace(0.1, 1, 257)[:, None]
    transform = signal.ShortTimeFFT(
        hann_window(512).numpy().astype(np.float64), 160, 16_000, dual_win=None
    )
    # scipy's frame p is centred on sample 160 p; ours on 160 (p + 1/2).
    shape = np.pad(spectrogram[0].numpy(), ((0, 0), (0, 8)))
    # scipy counts phases from the window's centre; ours start at the window's first sample.
    turned = shape * np.exp(1j * np.pi * np.arange(257))[:, None]
    transform.phase_shift = 0
    ours = istft(spectrogram, 512, 160)[0].numpy()
    theirs = transform.istft(np.pad(turned, ((0, 0), (-transform.p_min, 0))), k0=-80, k1=len(ours))
    middle = slice(1000, -2000)
    assert np.allclose(ours[middle], theirs[: len(ours)][middle], atol=1e-4)


@pytest.mark.parametrize(("n_mels", "n_fft", "f_min", "f_max"), [
    (80, 400, 0.0, 8000.0), (120, 1024, 0.0, 8000.0), (40, 512, 60.0, 7600.0),
])  # fmt: skip
def test_mel_filters_equal_torchaudio(n_mels, n_fft, f_min, f_max):
    functional = pytest.importorskip("torchaudio.functional")
    expected = functional.melscale_fbanks(
        n_fft // 2 + 1, f_min, f_max, n_mels, 16_000, norm="slaney", mel_scale="slaney"
    ).T
    assert torch.allclose(mel_filterbank(n_mels, n_fft, 16_000, f_min, f_max), expected, atol=1e-6)


def test_the_mel_scale_has_an_inverse():
    hz = np.linspace(0, 8000, 1001)
    assert np.allclose(mel_to_hz(hz_to_mel(hz)), hz)
    assert hz_to_mel(1000.0) == pytest.approx(15)
    assert hz_to_mel(6400.0) == pytest.approx(42)
