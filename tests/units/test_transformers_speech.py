"""Encoders through transformers against its own classes, with random weights and random audio."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import gslm.units
from gslm.errors import UserError
from gslm.training import has_bfloat16
from gslm.units.chunking import encode_clips
from gslm.units.encoders import (
    Chunking,
    SpeechEncoder,
    WhisperEncoder,
    load_encoder,
)
from gslm.units.encoders.batching import like_lengths, ten_second_chunks
from gslm.units.encoders.log_mel_pairs import log_mel_pairs
from gslm.units.unit_encoder import UnitEncoder

transformers = pytest.importorskip("transformers", reason="gslm[transformers] is not installed")
from tests.units.speech_models import (  # noqa: E402
    CONFIGS,
    DIM,
    SpeechModels,
    clip_of,
    save_model,
)

LENGTHS = (1, 399, 400, 719, 720, 1000, 8000, 16_000, 16_100, 16_400, 16_000, 24_000)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return SpeechModels(tmp_path_factory)


def _inputs(model: torch.nn.Module, clips: list[Tensor]) -> dict[str, Tensor]:
    """What transformers' own feature extractor makes of clips, padded and with a mask."""
    if model.config.model_type == "wav2vec2-bert":
        extractor = transformers.SeamlessM4TFeatureExtractor(padding_value=1.0)
    else:
        extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    arrays = [clip.numpy() for clip in clips]
    return dict(extractor(arrays, sampling_rate=16_000, padding=True, return_tensors="pt"))


def _expected(model: torch.nn.Module, clip: Tensor, layer: int, window: int) -> Tensor:
    """transformers' hidden states of one clip, zero-padded to a window where it is shorter."""
    if model.config.model_type == "wav2vec2-bert":
        inputs = _inputs(model, [torch.nn.functional.pad(clip, (0, max(0, 560 - len(clip))))])
        states = model(**inputs, output_hidden_states=True).hidden_states[layer][0]
        return states[inputs["attention_mask"][0].bool()]
    samples = _inputs(model, [clip])["input_values"]
    samples = torch.nn.functional.pad(samples, (0, max(0, window - len(clip))))
    return model(samples, output_hidden_states=True).hidden_states[layer][0]


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_every_layer_equals_transformers_in_a_batch_of_all_lengths(saved, kind, layer):
    model, folder = saved(kind)
    encoder = load_encoder(folder, layer)
    assert isinstance(encoder, SpeechEncoder)
    clips = [clip_of(n) for n in LENGTHS]
    window = 720 if kind == "mhubert-25hz" else 400
    for clip, ours in zip(clips, encoder(clips), strict=True):
        expected = _expected(model, clip, layer, window)
        assert ours.shape == expected.shape == (encoder.n_frames(len(clip)), DIM)
        assert ours.dtype == torch.float32
        # A band of two spectra that hardly differ: transformers' float32 loses digits there.
        tiny = kind.startswith("w2v-bert") and len(clip) < 720
        assert (ours - expected).abs().max() < (1e-3 if tiny else 1e-4)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_clip_does_not_depend_on_its_batch(saved, kind):
    encoder = load_encoder(saved(kind)[1], 2)
    clips = [clip_of(n) for n in LENGTHS]
    for clip, together in zip(clips, encoder(clips), strict=True):
        assert torch.allclose(encoder([clip])[0], together, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "is_harmed"),
    [
        ("hubert-base", True), ("wav2vec2-base", True), ("wavlm-base", True),
        ("unispeech", True), ("data2vec", True), ("mhubert-25hz", True),
        ("hubert-large", False), ("xlsr", False), ("wavlm-large", False), ("w2v-bert", False),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Support for mismatched")  # of torch, at WavLM's mask
def test_what_padding_does_in_transformers_itself(saved, kind, is_harmed):
    """With its mask, padding changes a clip where the first convolution is normalised over time.

    And in data2vec and mHuBERT at 25 Hz, by the position convolutions. Ours never changes.
    """
    model, folder = saved(kind)
    short, long = clip_of(8000), clip_of(16_000)
    alone = _expected(model, short, 2, 400)
    inputs = _inputs(model, [short, long])
    padded = model(**inputs, output_hidden_states=True).hidden_states[2][0][: len(alone)]
    difference = (padded - alone).abs().max()
    assert difference > 1e-2 if is_harmed else difference < 1e-4
    ours = load_encoder(folder, 2)([short, long])[0]
    assert (ours - alone).abs().max() < 1e-4


def test_clips_share_a_batch_only_where_little_of_it_is_padding():
    rng = np.random.default_rng(0)
    for max_padding in (0.0, 0.05):
        lengths = rng.integers(1, 300, 200).tolist()
        groups = list(like_lengths(lengths, max_padding))
        assert sorted(i for group in groups for i in group) == list(range(200))
        for group in groups:
            rows = [lengths[i] for i in group]
            assert 1 - sum(rows) / (len(rows) * max(rows)) <= max_padding + 1e-9
    assert len(groups) < 70
    assert list(like_lengths([], 0.05)) == []


def test_padded_rows_are_used_where_they_do_no_harm(saved):
    def batches(kind: str) -> list[int]:
        encoder = load_encoder(saved(kind)[1], 1)
        seen: list[int] = []
        encoder.model.encoder.register_forward_pre_hook(lambda _, rows: seen.append(len(rows[0])))
        encoder([clip_of(16_000 + n) for n in (0, 320, 640, 640)])
        return seen

    assert batches("hubert-base") == batches("w2v-bert") == [4]
    assert batches("wavlm-base") == batches("data2vec") == [2, 1, 1]
    assert batches("mhubert-25hz") == [3, 1]


@pytest.mark.parametrize("kind", ["hubert-base", "mhubert-25hz", "data2vec", "w2v-bert"])
def test_frame_counts_are_the_originals(saved, kind):
    model, folder = saved(kind)
    encoder = load_encoder(folder, 1)
    if kind == "w2v-bert":
        assert [encoder.n_frames(n) for n in (1, 560, 879, 880, 16_000)] == [1, 1, 1, 2, 49]
    else:
        for n in (*range(720, 2400, 7), 16_000, 480_000):
            assert encoder.n_frames(n) == int(model._get_feat_extract_output_lengths(n))
        assert encoder.n_frames(1) == encoder.n_frames(399) == 1
    assert encoder.hop_length == (640 if kind == "mhubert-25hz" else 320)


@pytest.mark.parametrize("n", [560, 719, 720, 880, 16_000, 50_001])
@pytest.mark.parametrize("n_mels", [80, 40])
def test_log_mel_pairs_equal_the_seamless_feature_extractor(n, n_mels):
    extractor = transformers.SeamlessM4TFeatureExtractor(
        feature_size=n_mels, num_mel_bins=n_mels, padding_value=1.0
    )
    out = extractor(clip_of(n).numpy(), sampling_rate=16_000, return_tensors="pt")
    expected = out["input_features"][0][out["attention_mask"][0].bool()]
    ours = log_mel_pairs(clip_of(n), n_mels)
    assert ours.shape == expected.shape
    # Of two or three spectra that hardly differ in a band, transformers' float32 loses digits.
    assert (ours - expected).abs().max() < (5e-3 if n < 800 else 1e-4)


def test_clips_are_normalised_only_where_the_preprocessor_asks(saved, tmp_path):
    model, _ = saved("xlsr")
    clip = clip_of(8000)
    save_model(model, tmp_path, do_normalize=False)
    expected = model(clip[None], output_hidden_states=True).hidden_states[1][0]
    assert torch.allclose(load_encoder(tmp_path, 1)([clip])[0], expected, atol=1e-4)
    (tmp_path / "preprocessor_config.json").unlink()  # then as in fairseq: this shape is normalised
    expected = _expected(model, clip, 1, 400)
    assert torch.allclose(load_encoder(tmp_path, 1)([clip])[0], expected, atol=1e-4)


def test_silence_and_a_constant_give_finite_frames(saved):
    for kind in CONFIGS:
        encoder = load_encoder(saved(kind)[1], 1)
        for clip in (torch.zeros(8000), torch.full((8000,), 0.5)):
            assert torch.isfinite(encoder([clip])[0]).all()


def test_gradients_reach_the_samples(saved):
    for kind in ("hubert-base", "wavlm-large", "w2v-bert"):
        clips = [clip_of(4000).requires_grad_(), clip_of(4100).requires_grad_()]
        torch.cat(load_encoder(saved(kind)[1], 2)(clips)).sum().backward()
        assert all(clip.grad is not None and clip.grad.abs().sum() > 0 for clip in clips)


def test_layers_above_the_cut_are_neither_held_nor_needed_in_the_file(saved, tmp_path):
    model, folder = saved("hubert-large")
    names = load_encoder(folder, 2).tensors()
    assert not [
        name for name in names if name.startswith(("encoder.layers.2", "encoder.layer_norm"))
    ]
    save_model(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    above = [name for name in tensors if name.startswith("encoder.layers.2")]
    kept = {name: tensor for name, tensor in tensors.items() if name not in above}
    save_file(kept, tmp_path / "model.safetensors")
    clip = clip_of(8000)
    assert torch.equal(load_encoder(tmp_path, 2)([clip])[0], load_encoder(folder, 2)([clip])[0])
    with pytest.raises(UserError, match=r"do not fit.*Missing key.*layers\.2"):
        load_encoder(tmp_path, 3)


def _old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weight norm under the names of checkpoints from before torch's parametrizations."""
    old = {"parametrizations.weight.original0": "weight_g"}
    old |= {"parametrizations.weight.original1": "weight_v"}
    renamed = {}
    for name, tensor in state.items():
        end = next((new for new in old if name.endswith(new)), "")
        renamed[name.removesuffix(end) + old.get(end, "")] = tensor.clone()
    return renamed


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_file_with_heads_and_old_names_is_read(saved, tmp_path, zipped):
    """As most speech models on the Hub are stored: pytorch_model.bin of a fine-tuned model."""
    model, folder = saved("wav2vec2-base")
    save_model(model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    state = {f"wav2vec2.{name}": tensor for name, tensor in _old_names(model.state_dict()).items()}
    state |= {"wav2vec2.masked_spec_embed": torch.zeros(DIM), "lm_head.weight": torch.zeros(3, DIM)}
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    config = json.loads((tmp_path / "config.json").read_text()) | {
        "architectures": ["Wav2Vec2ForCTC"]
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours, theirs = load_encoder(tmp_path, 2), load_encoder(folder, 2)
    assert torch.equal(ours([clip_of(8000)])[0], theirs([clip_of(8000)])[0])
    assert ours.weights_hash == theirs.weights_hash
    assert theirs.learned_from == "speech alone"
    assert "Wav2Vec2ForCTC" in ours.learned_from


def test_weights_in_several_files_and_in_half_precision_are_read(saved, tmp_path):
    model, folder = saved("wavlm-base")
    model = type(model)(model.config)
    model.load_state_dict(saved("wavlm-base")[0].state_dict())
    model.half().save_pretrained(tmp_path, max_shard_size="50KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    ours, theirs = load_encoder(tmp_path, 2), load_encoder(folder, 2)
    assert ours.weights_hash != ""
    assert torch.allclose(ours([clip_of(8000)])[0], theirs([clip_of(8000)])[0], atol=2e-2)


@pytest.mark.parametrize("kind", ["hubert-base", "mhubert-25hz", "wavlm-large", "w2v-bert-rotary"])
@pytest.mark.parametrize("half", [False, True])
def test_a_units_folder_is_rebuilt_offline(saved, tmp_path, monkeypatch, kind, half):
    encoder = load_encoder(saved(kind)[1], 2)
    first = UnitEncoder(encoder, encoder([clip_of(32_000)])[0][::5])
    first.save(tmp_path, half=half)
    assert saved(kind)[1].as_posix() not in (tmp_path / "config.json").read_text()
    monkeypatch.setattr("huggingface_hub.snapshot_download", _no_hub)
    loaded = gslm.units.load(tmp_path)
    assert loaded.fingerprint == first.fingerprint
    assert loaded.encoder.weights_hash == encoder.weights_hash
    assert loaded.fingerprint.encoder == f"transformers/{CONFIGS[kind].model_type}"
    assert loaded.fingerprint.frame_rate == 16_000 / encoder.hop_length
    waveform = clip_of(30_000).numpy()
    assert np.mean(loaded(waveform).ids != first(waveform).ids) <= (0.1 if half else 0)


def _no_hub(*_args, **_options):
    raise AssertionError("the Hub was asked")


@pytest.mark.parametrize("kind", ["hubert-base", "wavlm-large", "data2vec", "w2v-bert"])
def test_bfloat16_is_near_and_keeps_its_weights(saved, kind):
    exact = load_encoder(saved(kind)[1], 2)
    rounded = load_encoder(saved(kind)[1], 2, precision="bfloat16")
    assert (rounded.weights_hash, rounded.config()) == (exact.weights_hash, exact.config())
    clips = [clip_of(n) for n in (8000, 8320, 24_000)]
    for ours, theirs in zip(rounded(clips), exact(clips), strict=True):
        assert ours.dtype == torch.float32
        assert not torch.equal(ours, theirs)
        assert (ours - theirs).abs().mean() < 0.02 * theirs.abs().mean()
    chosen = load_encoder(saved(kind)[1], 2, precision="auto").precision
    assert chosen == ("bfloat16" if has_bfloat16(torch.device("cpu")) else "float32")


@pytest.mark.parametrize("kind", ["hubert-base", "wavlm-large", "mhubert-25hz"])
def test_chunks_get_the_means_and_variances_of_their_recording(saved, kind):
    encoder = load_encoder(saved(kind)[1], 1)
    loud_then_soft = torch.cat([clip_of(64_000), 0.2 * clip_of(64_001) + 0.1])
    whole = encoder([loud_then_soft])[0]
    bound = encoder.for_recording(np.array_split(loud_then_soft.numpy(), 5))
    n_half = encoder.n_frames(64_000)
    # Frames of the first half, away from the cut; a layer of attention sees the rest as well.
    differences = [
        (chosen([loud_then_soft[:64_000]])[0] - whole[:n_half])[: n_half // 2].abs().mean()
        for chosen in (bound, encoder)
    ]
    assert differences[0] < 0.2 * differences[1]
    assert torch.allclose(bound([loud_then_soft])[0], whole, atol=1e-4)


def test_an_encoder_goes_to_another_process(saved):
    encoder = load_encoder(saved("hubert-base")[1], 2)
    again = pickle.loads(pickle.dumps(encoder))
    assert torch.equal(again([clip_of(5000)])[0], encoder([clip_of(5000)])[0])


@pytest.mark.parametrize("kind", ["hubert-base", "mhubert-25hz", "w2v-bert"])
@pytest.mark.parametrize("n_samples", [1, 719, 64_000, 64_001, 64_641, 200_123])
def test_long_recordings_have_every_frame_once(saved, kind, n_samples):
    hop = 640 if kind == "mhubert-25hz" else 320
    encoder = load_encoder(saved(kind)[1], 1, Chunking(64_000 // hop, 32_000 // hop))
    waveform = clip_of(n_samples).numpy()
    assert len(encode_clips(encoder, [waveform])[0]) == encoder.n_frames(n_samples)
    units = UnitEncoder(encoder, torch.randn(5, DIM))
    streamed = units.encode_blocks(lambda: iter(np.array_split(waveform, 7)))
    assert len(streamed) == encoder.n_frames(n_samples)


def test_chunks_last_as_long_at_any_frame_rate():
    assert ten_second_chunks(320) == Chunking()
    assert ten_second_chunks(160) == Chunking(1000, 500)
    chunks = ten_second_chunks(640)
    assert (chunks.chunk_frames - chunks.overlap_frames) * 640 == 5 * 16_000


def test_a_whisper_folder_goes_to_whisper(tmp_path):
    config = transformers.WhisperConfig(
        vocab_size=50, d_model=32, encoder_layers=3, encoder_attention_heads=2, encoder_ffn_dim=64,
        decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=64, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    transformers.WhisperModel(config).save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path)
    assert isinstance(encoder, WhisperEncoder)
    assert encoder.layer == 3
