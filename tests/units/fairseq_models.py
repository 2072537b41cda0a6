"""Small HuBERT and wav2vec 2.0 models with random weights, and fairseq's checkpoints of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="gslm[transformers] is not installed")

N_LAYERS = 3
SIZES = {
    "hidden_size": 128,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "conv_dim": [32] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
PRE_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
MODELS = {
    "hubert-base": (transformers.HubertModel, SIZES),
    "hubert-large": (transformers.HubertModel, SIZES | PRE_NORM | {"conv_bias": True}),
    "wav2vec2-base": (transformers.Wav2Vec2Model, SIZES),
    "wav2vec2-large": (transformers.Wav2Vec2Model, SIZES | PRE_NORM | {"conv_bias": True}),
    "odd-width": (transformers.HubertModel, SIZES | {"num_conv_pos_embeddings": 9}),
    "biased": (transformers.Wav2Vec2Model, SIZES | {"conv_bias": True}),
}
FAIRSEQ_NAMES = {
    "feature_projection.layer_norm": "layer_norm",
    "feature_projection.projection": "post_extract_proj",
    "encoder.pos_conv_embed.conv.parametrizations.weight.original0": "encoder.pos_conv.0.weight_g",
    "encoder.pos_conv_embed.conv.parametrizations.weight.original1": "encoder.pos_conv.0.weight_v",
    "encoder.pos_conv_embed.conv": "encoder.pos_conv.0",
    ".attention.": ".self_attn.",
    ".feed_forward.intermediate_dense": ".fc1",
    ".feed_forward.output_dense": ".fc2",
    ".conv.": ".0.",
    "masked_spec_embed": "mask_emb",
}


def fairseq_name(name: str, pre_norm: bool) -> str:
    """transformers' name of a weight in fairseq's spelling."""
    for theirs, ours in FAIRSEQ_NAMES.items():
        name = name.replace(theirs, ours)
    if name.startswith("encoder.layers") and ".final_layer_norm" not in name:
        name = name.replace(".layer_norm", ".self_attn_layer_norm")
    if name.startswith("feature_extractor"):
        name = name.replace(".layer_norm.", ".2.1." if pre_norm else ".2.")
    return name


def model_of(kind: str) -> torch.nn.Module:
    """A small model of transformers with random weights, biases included."""
    model_class, sizes = MODELS[kind]
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**sizes)).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def save_fairseq(model: torch.nn.Module, path: Path, **more) -> Path:
    """Write fairseq's checkpoint of a model; `more`: what it holds beside, or instead."""
    pre_norm = model.config.feat_extract_norm == "layer"
    state = {fairseq_name(name, pre_norm): tensor for name, tensor in model.state_dict().items()}
    cfg = {
        "model": {"_name": type(model).__name__.lower(), "layer_norm_first": pre_norm},
        "task": {"normalize": pre_norm, "sample_rate": 16_000},
    }
    torch.save({"args": None, "cfg": cfg, "model": state, **more}, path)
    return path
