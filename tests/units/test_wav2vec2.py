"""HuBERT and wav2vec 2.0 on fairseq2, beside transformers' and torchaudio's own classes."""

from __future__ import annotations

import copy
import pickle
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fairseq_models import MODELS, N_LAYERS, model_of, save_fairseq
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gslm.errors import UserError
from gslm.training import has_bfloat16
from gslm.units.chunking import encode_stream
from gslm.units.encoders import Chunking, NoSuchLayerError, load_encoder
from gslm.units.encoders.wav2vec2 import Wav2Vec2Config, Wav2Vec2Encoder, wav2vec2_model
from gslm.units.quantizers.kmeans import KMeansConfig, assign, fit_kmeans
from gslm.units.unit_encoder import UnitEncoder

pytest.importorskip("fairseq2n", reason="gslm[fairseq2] is not installed")
transformers = pytest.importorskip("transformers", reason="gslm[transformers] is not installed")


def hidden_states(model: torch.nn.Module, clip: Tensor) -> tuple[Tensor, ...]:
    """What transformers gives for one clip alone."""
    if clip.min() == clip.max():
        # Rounding divided by no variance: transformers in float32 is 2e-4 off itself in float64.
        model, clip = copy.deepcopy(model).double(), clip.double()
    if model.config.feat_extract_norm == "layer":
        clip = F.layer_norm(clip, clip.shape)
    clip = F.pad(clip, (0, max(0, 400 - len(clip))))
    return tuple(h[0] for h in model(clip[None], output_hidden_states=True).hidden_states)


def clip_of(n_samples: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * seed + n_samples)
    return 0.1 * torch.randn(n_samples, generator=generator) + 0.02


CLIPS = [clip_of(n) for n in (16_000, 399, 8000, 1, 720, 719, 35_111)]
CLIPS += [clip_of(16_000, 1), torch.zeros(5000), torch.full((900,), 0.3)]


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory):
    """A transformers model and the fairseq checkpoint with the same weights."""
    model = model_of(request.param)
    path = save_fairseq(model, tmp_path_factory.mktemp("fairseq") / f"{request.param}.pt")
    return model, path


@pytest.mark.parametrize("layer", range(1, N_LAYERS + 1))
def test_each_layer_of_each_clip_is_that_of_transformers(pair, layer):
    model, path = pair
    encoder = load_encoder(path, layer)
    assert isinstance(encoder, Wav2Vec2Encoder)
    assert encoder.name == ("hubert" if "Hubert" in type(model).__name__ else "wav2vec2")
    for clip, frames in zip(CLIPS, encoder(CLIPS), strict=True):
        expected = hidden_states(model, clip)[layer]
        if layer == N_LAYERS and model.config.feat_extract_norm == "layer":
            # fairseq leaves out the normalisation that transformers applies to the last layer.
            norm = model.encoder.layer_norm
            ours = F.layer_norm(frames, norm.normalized_shape, norm.weight, norm.bias)
        else:
            ours = frames
        assert ours.shape == expected.shape == (encoder.n_frames(len(clip)), encoder.dim)
        assert (ours - expected).abs().max() < 1e-4


def test_neighbours_in_the_batch_change_nothing(pair):
    encoder = load_encoder(pair[1], 2)
    for clip, frames in zip(CLIPS, encoder(CLIPS), strict=True):
        assert (encoder([clip])[0] - frames).abs().max() < 1e-5
    loud = [CLIPS[0], 30 * clip_of(16_000, 2), torch.full((16_000,), float("nan"))]
    assert (encoder(loud)[0] - encoder([CLIPS[0]])[0]).abs().max() < 1e-5
    assert encoder([]) == []


def test_layers_above_are_not_held(pair, tmp_path):
    _, path = pair
    names = load_encoder(path, 2).tensors()
    assert {name.split(".")[2] for name in names if name.startswith("encoder.layers")} == {"0", "1"}
    checkpoint = torch.load(path)
    for name, tensor in checkpoint["model"].items():
        if "encoder.layers.2." in name:
            tensor.fill_(float("nan"))
    torch.save(checkpoint, tmp_path / "above.pt")
    frames = load_encoder(tmp_path / "above.pt", 2)([CLIPS[0]])[0]
    assert torch.equal(frames, load_encoder(path, 2)([CLIPS[0]])[0])
    assert len(frames) == 49


@pytest.mark.parametrize("mode", ["group_norm", "layer_norm"])
@pytest.mark.parametrize("file", ["state.pth", "state.safetensors"])
def test_a_torchaudio_state_dict_gives_what_torchaudio_gives(mode, file, tmp_path):
    torchaudio = pytest.importorskip("torchaudio", reason="gslm[mos] is not installed")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    pre_norm = mode == "layer_norm"
    model = torchaudio.models.wav2vec2_model(
        extractor_mode=mode,
        extractor_conv_layer_config=[(32, 10, 5)] + [(32, 3, 2)] * 4 + [(32, 2, 2)] * 2,
        extractor_conv_bias=pre_norm,
        encoder_embed_dim=128,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=16,
        encoder_pos_conv_groups=4,
        encoder_num_layers=N_LAYERS,
        encoder_num_heads=2,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=96,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=pre_norm,
        encoder_layer_drop=0.0,
        aux_num_out=7,
    )
    model.eval().requires_grad_(False)
    save = save_file if file.endswith("safetensors") else torch.save
    save(model.state_dict(), tmp_path / file)
    encoder = load_encoder(tmp_path / file, 2)
    assert encoder.learned_from == "speech, then transcripts"
    for clip, frames in zip(CLIPS, encoder(CLIPS), strict=True):
        if len(clip) >= 400:
            waveform = F.layer_norm(clip, clip.shape) if pre_norm else clip
            expected = model.extract_features(waveform[None])[0][1][0]
            assert (frames - expected).abs().max() < 1e-4


@given(n_samples=st.integers(1, 200_000))
def test_frames_are_those_of_whole_windows(n_samples):
    from gslm.units.encoders.convolutional import hop_and_window, n_outputs

    length = max(n_samples, 400)
    shapes = [(10, 5)] + [(3, 2)] * 4 + [(2, 2)] * 2
    for width, stride in shapes:
        length = (length - width) // stride + 1
    assert hop_and_window(shapes) == (320, 400)
    assert n_outputs(n_samples, 320, 400) == length == max(0, n_samples - 400) // 320 + 1


@pytest.mark.parametrize("half", [False, True])
def test_a_folder_of_units_rebuilds_the_encoder(pair, half, tmp_path):
    encoder = load_encoder(pair[1], 2)
    centroids = torch.randn(20, encoder.dim, generator=torch.Generator().manual_seed(0))
    units = UnitEncoder(encoder, centroids, "frame")
    units.save(tmp_path, half=half)
    rebuilt = UnitEncoder.load(tmp_path)
    assert rebuilt.fingerprint == units.fingerprint
    assert rebuilt.encoder.config() == encoder.config()
    assert rebuilt.encoder.weights_hash == encoder.weights_hash
    assert rebuilt.encoder.chunking == encoder.chunking
    difference = rebuilt.encoder([CLIPS[0]])[0] - encoder([CLIPS[0]])[0]
    assert difference.abs().max() <= (0.02 if half else 0)
    clip = CLIPS[0].numpy()
    same = (rebuilt(clip).ids == units(clip).ids).mean()
    assert same >= (0.9 if half else 1)


def test_a_worker_gets_the_same_encoder(pair):
    encoder = load_encoder(pair[1], 2)
    sent = pickle.loads(pickle.dumps(encoder))
    assert torch.equal(sent([CLIPS[0]])[0], encoder([CLIPS[0]])[0])


def test_frames_are_differentiable_in_the_clips(pair):
    clip = CLIPS[2].clone().requires_grad_()
    load_encoder(pair[1], 2)([clip])[0].sum().backward()
    assert clip.grad is not None
    assert clip.grad.abs().sum() > 0


def test_bfloat16_is_near_and_keeps_its_weights(pair):
    exact = load_encoder(pair[1], 2)
    rounded = load_encoder(pair[1], 2, precision="bfloat16")
    assert rounded.weights_hash == exact.weights_hash
    assert rounded.config() == exact.config()
    assert (exact.precision, rounded.precision) == ("float32", "bfloat16")
    assert pickle.loads(pickle.dumps(rounded)).precision == "bfloat16"
    ours, theirs = rounded([CLIPS[0]])[0], exact([CLIPS[0]])[0]
    assert ours.dtype == torch.float32
    assert not torch.equal(ours, theirs)
    assert (ours - theirs).abs().mean() < 0.02 * theirs.abs().mean()
    assert torch.equal(rounded.with_precision("float32")([CLIPS[0]])[0], theirs)
    chosen = load_encoder(pair[1], 2, precision="auto").precision
    assert chosen == ("bfloat16" if has_bfloat16(torch.device("cpu")) else "float32")


def test_impossible_settings_are_errors(pair):
    with pytest.raises(NoSuchLayerError, match="there is no layer 4; choose one from 1 to 3"):
        load_encoder(pair[1], 4)
    with pytest.raises(NoSuchLayerError, match="no layer 0"):
        load_encoder(pair[1], 0)
    with pytest.raises(UserError, match="name a layer"):
        load_encoder(pair[1])
    with pytest.raises(UserError, match="share at least 2 frames"):
        load_encoder(pair[1], 1, Chunking(100, 0))
    with pytest.raises(UserError, match="precision 'float8'"):
        load_encoder(pair[1], 1, precision="float8")
    with pytest.raises(UserError, match="float32 alone; bfloat16 is for HuBERT"):
        load_encoder("log-mel", precision="bfloat16")


def test_without_fairseq2_the_error_says_what_to_install(pair, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "fairseq2.models.wav2vec2", None)
    with pytest.raises(UserError, match=r"pip install 'gslm\[fairseq2\]'.*transformers folder"):
        load_encoder(pair[1], 2)


@cache
def speech_like(seconds: float, seed: int) -> np.ndarray:
    """Syllables of random pitch, timbre and loudness: (samples,) at 16 kHz."""
    rng = np.random.default_rng(seed)
    parts: list[np.ndarray] = []
    n_samples = round(seconds * 16_000)
    while sum(map(len, parts)) < n_samples:
        t = np.arange(rng.integers(1000, 6000)) / 16_000
        harmonics = np.arange(1, 20)[:, None] * rng.uniform(80, 250)
        weights = np.exp(-(((harmonics - rng.uniform(300, 3000)) / rng.uniform(200, 900)) ** 2))
        voice = (weights * np.sin(2 * np.pi * harmonics * t)).sum(0)
        noise = rng.standard_normal(len(t)) * rng.uniform(0, 0.5)
        # Louder and softer stretches of some twenty seconds, as of several speakers.
        level = 0.1 * 4 ** np.sin(2 * np.pi * sum(map(len, parts)) / 320_000)
        parts.append(level * rng.uniform(0.2, 1) * np.hanning(len(t)) * (voice / 4 + noise))
    return np.concatenate(parts)[:n_samples].astype(np.float32)


@pytest.mark.parametrize("kind", ["hubert-base", "hubert-large"])
def test_units_of_two_minutes_in_chunks_are_those_of_the_whole(kind, tmp_path):
    encoder = load_encoder(save_fairseq(model_of(kind), tmp_path / "h.pt"), 1)
    samples = speech_like(120, 0)
    with torch.no_grad():
        whole = encoder([torch.from_numpy(samples)])[0]
        bound = encoder.for_recording(np.array_split(samples, 7))
        frames = torch.cat(list(encode_stream(bound, np.array_split(samples, 11))))
        unbound = torch.cat(list(encode_stream(encoder, [samples])))
    assert len(frames) == len(whole) == encoder.n_frames(len(samples)) == 5999
    config = KMeansConfig(k=100, n_starts=1, passes=5)
    centroids = fit_kmeans(lambda: iter([whole]), config).centroids
    expected = assign(whole, centroids)
    same = (assign(frames, centroids) == expected).float().mean()
    assert same > 0.98
    assert same > (assign(unbound, centroids) == expected).float().mean()


@given(n_samples=st.integers(1, 60_000), overlap=st.integers(1, 10), offset=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_chunks_give_exactly_the_frames_of_the_whole(n_samples, overlap, offset):
    encoder = small_encoder()
    blocks = np.array_split(np.zeros(n_samples, np.float32), 3)
    chunking = Chunking(40, 2 * overlap, offset)
    with torch.no_grad():
        frames = torch.cat(list(encode_stream(encoder.for_recording(blocks), blocks, chunking)))
    assert len(frames) == encoder.n_frames(n_samples)


def test_a_long_recording_is_read_and_given_bit_by_bit():
    n_blocks, is_open = 20, 0
    encoder = small_encoder()

    def blocks():
        nonlocal is_open
        for i in range(n_blocks):
            is_open = i + 1
            yield 0.1 * np.random.default_rng(i).standard_normal(480_000, np.float32)

    bound = encoder.for_recording(blocks())
    n_frames = 0
    with torch.no_grad():
        for frames in encode_stream(bound, blocks()):
            n_frames += len(frames)
            # What was read and not yet given never exceeds some chunks and a block.
            assert is_open * 480_000 - n_frames * 320 < 4 * 480_000
    assert n_frames == encoder.n_frames(n_blocks * 480_000) == 29_999


@cache
def small_encoder() -> Wav2Vec2Encoder:
    """An encoder with random weights that runs through ten minutes in a second."""
    config = Wav2Vec2Config(
        kind="hubert",
        model_dim=16,
        n_heads=2,
        ffn_dim=16,
        convolutions=((4, 10, 5), *[(4, 3, 2)] * 4, *[(4, 2, 2)] * 2),
        conv_bias=False,
        conv_layer_norm=False,
        position_width=8,
        position_groups=2,
        pre_norm=False,
        normalize=False,
        n_layers=1,
        layer=1,
        learned_from="nothing",
    )
    from gslm.units.encoders.wav2vec2 import Wav2Vec2Model

    torch.manual_seed(0)
    tensors = Wav2Vec2Model(config).state_dict()
    return Wav2Vec2Encoder(wav2vec2_model(config, tensors, "here"), config)


def test_moments_do_not_depend_on_how_a_recording_is_cut():
    from gslm.units.encoders.convolutional import moments_of

    samples = torch.from_numpy(speech_like(3, 1)) + 0.01
    whole = moments_of([samples], 10, 5)
    windows = samples.double().unfold(0, 10, 5)
    assert torch.allclose(whole.mean, samples.double().mean())
    assert torch.allclose(whole.variance, samples.double().var(correction=0))
    assert torch.allclose(whole.window_mean, windows.mean(0))
    assert torch.allclose(whole.window_covariance, windows.T.cov(correction=0))
    for pieces in ([1, 3, 8, 9, 12, 47_000], [5, 10, 15], range(7, 47_000, 333)):
        cut = moments_of(torch.tensor_split(samples, list(pieces)), 10, 5)
        assert torch.allclose(cut.window_covariance, whole.window_covariance)
        assert torch.allclose(cut.variance, whole.variance)
