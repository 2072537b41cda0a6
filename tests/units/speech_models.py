"""Small speech models of transformers with random weights, and the folders they are saved to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

transformers = pytest.importorskip("transformers", reason="gslm[transformers] is not installed")

N_LAYERS = 3
DIM = 48
CONFORMER = {
    "hidden_size": DIM,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 10,
}
SHAPE = CONFORMER | {
    "conv_dim": [32] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
PRE_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
SLOWER = {
    "conv_dim": [32] * 8,
    "conv_stride": [5, 2, 2, 2, 2, 2, 2, 2],
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2, 2],
    "num_feat_extract_layers": 8,
    "conv_pos_batch_norm": True,
}
CONFIGS = {
    "hubert-base": transformers.HubertConfig(**SHAPE),
    "hubert-large": transformers.HubertConfig(**SHAPE, **PRE_NORM, conv_bias=True),
    "distilhubert": transformers.HubertConfig(**SHAPE, feat_proj_layer_norm=False),
    "mhubert-25hz": transformers.HubertConfig(**(SHAPE | SLOWER)),
    "wav2vec2-base": transformers.Wav2Vec2Config(**SHAPE),
    "xlsr": transformers.Wav2Vec2Config(**SHAPE, **PRE_NORM, conv_bias=True),
    "mms": transformers.Wav2Vec2Config(**SHAPE, **PRE_NORM, adapter_attn_dim=8),
    "wavlm-base": transformers.WavLMConfig(**SHAPE),
    "wavlm-large": transformers.WavLMConfig(**SHAPE, **PRE_NORM),
    "data2vec": transformers.Data2VecAudioConfig(
        **(SHAPE | {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5})
    ),
    "unispeech": transformers.UniSpeechConfig(**SHAPE),
    "unispeech-sat": transformers.UniSpeechSatConfig(**SHAPE, **PRE_NORM),
    "w2v-bert": transformers.Wav2Vec2BertConfig(**CONFORMER),
    "w2v-bert-relative": transformers.Wav2Vec2BertConfig(
        **CONFORMER, position_embeddings_type="relative", max_source_positions=30
    ),
    "w2v-bert-rotary": transformers.Wav2Vec2BertConfig(
        **CONFORMER, position_embeddings_type="rotary", add_adapter=True
    ),
}


def clip_of(n: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(n)) * 0.1 + 0.02


def _model(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(CONFIGS[kind]).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.requires_grad_(False)


def save_model(model: torch.nn.Module, folder: Path, **preprocessor) -> Path:
    model.save_pretrained(folder)
    asked = {"do_normalize": True, "sampling_rate": 16_000} | preprocessor
    (folder / "preprocessor_config.json").write_text(json.dumps(asked))
    return folder


class SpeechModels:
    """From a name in CONFIGS to transformers' model and the folder it was saved to."""

    def __init__(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self._folders = tmp_path_factory
        self._made: dict[str, tuple[torch.nn.Module, Path]] = {}

    def __call__(self, kind: str) -> tuple[torch.nn.Module, Path]:
        if kind not in self._made:
            model = _model(kind)
            self._made[kind] = (model, save_model(model, self._folders.mktemp(kind)))
        return self._made[kind]
