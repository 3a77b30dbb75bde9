"""Small models of the transformers library with random weights: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from unittest import mock

import torch
import transformers as hf
from torch import nn
from torch._higher_order_ops.scan import scan
from transformers.models.mamba import modeling_mamba

#: Extents by name: ``{"batch": 2, "seq": 9}``.
Sizes: TypeAlias = Mapping[str, int]

TEXT = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
ENCODER = {**TEXT, "max_position_embeddings": 64}
DECODER = {**ENCODER, "use_cache": False}
GROUPED = {**DECODER, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
PATCHES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
           "image_size": 32, "patch_size": 8}  # fmt: skip
T5 = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "use_cache": False}
SPEECH = {**ENCODER, "conv_dim": (16, 16, 16), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 3),
          "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One architecture.

    Attributes:
        make: builds the module, with random weights.
        inputs: keyword arguments of ``forward`` at given sizes.
        dynamic: open dimensions, as `capture` takes them.
        traced: the sizes that are traced.
        others: the sizes that are checked besides.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[Sizes], dict[str, torch.Tensor]]
    dynamic: dict[str, dict[int, str]]
    traced: Sizes = field(default_factory=lambda: {"batch": 2, "seq": 9})
    others: tuple[Sizes, ...] = ({"batch": 1, "seq": 5}, {"batch": 3, "seq": 14})


def ids(sizes: Sizes, seq: str = "seq", vocabulary: int = 99) -> torch.Tensor:
    """Token ids [batch, seq]; none is a padding or end token."""
    return torch.randint(3, vocabulary, (sizes["batch"], sizes[seq]))


def mask(sizes: Sizes, seq: str = "seq") -> torch.Tensor:
    """An attention mask [batch, seq] whose later rows end in padding."""
    lengths = sizes[seq] - torch.arange(sizes["batch"]) % 3
    return (torch.arange(sizes[seq]) < lengths[:, None]).long()


def text(config: Any, model: Callable[..., nn.Module] | None = None) -> Case:
    """A model of token ids and an attention mask."""
    return Case(
        lambda: model(config) if model is not None else hf.AutoModel.from_config(config),
        lambda sizes: {"input_ids": ids(sizes), "attention_mask": mask(sizes)},
        {"input_ids": {0: "batch", 1: "seq"}, "attention_mask": {0: "batch", 1: "seq"}},
    )


def image(
    config: Any,
    model: Callable[..., nn.Module] | None = None,
    side: int = 32,
    open_sides: tuple[Sizes, ...] = (),
    **extra: Callable[[Sizes], torch.Tensor],
) -> Case:
    """A model of images; with `open_sides` height and width are open as well, and checked at these."""
    axes = {0: "batch", 2: "height", 3: "width"} if open_sides else {0: "batch"}
    fixed = {"height": side, "width": side}
    return Case(
        lambda: model(config) if model is not None else hf.AutoModel.from_config(config),
        lambda sizes: {
            "pixel_values": torch.randn(sizes["batch"], 3, sizes["height"], sizes["width"]),
            **{name: make(sizes) for name, make in extra.items()},
        },
        {"pixel_values": axes, **{name: axes_of_mask(open_sides) for name in extra}},
        {"batch": 2, **fixed},
        open_sides or ({"batch": 1, **fixed}, {"batch": 3, **fixed}),
    )


def axes_of_mask(open_sides: tuple[Sizes, ...]) -> dict[int, str]:
    """Open dimensions of a mask [batch, height, width]."""
    return {0: "batch", 1: "height", 2: "width"} if open_sides else {0: "batch"}


def speech(config: Any, model: Callable[..., nn.Module] | None = None) -> Case:
    """A model of sound waves."""
    return Case(
        lambda: model(config) if model is not None else hf.AutoModel.from_config(config),
        lambda sizes: {"input_values": torch.randn(sizes["batch"], sizes["time"])},
        {"input_values": {0: "batch", 1: "time"}},
        {"batch": 2, "time": 800},
        ({"batch": 1, "time": 613}, {"batch": 3, "time": 1024}),
    )


def pair(config: Any) -> Case:
    """An encoder and a decoder of token ids, of two lengths."""
    return Case(
        lambda: hf.AutoModel.from_config(config),
        lambda sizes: {
            "input_ids": ids(sizes),
            "attention_mask": mask(sizes),
            "decoder_input_ids": ids(sizes, "target"),
        },
        {
            "input_ids": {0: "batch", 1: "seq"},
            "attention_mask": {0: "batch", 1: "seq"},
            "decoder_input_ids": {0: "batch", 1: "target"},
        },
        {"batch": 2, "seq": 9, "target": 6},
        ({"batch": 1, "seq": 5, "target": 8}, {"batch": 3, "seq": 14, "target": 3}),
    )


def t5_decoder() -> Case:
    """T5's decoder alone, over hidden states of an encoder."""
    config = hf.T5Config(**T5, is_decoder=True)
    return Case(
        lambda: hf.T5Model(config).decoder,
        lambda sizes: {
            "input_ids": ids(sizes, "target"),
            "encoder_hidden_states": torch.randn(sizes["batch"], sizes["seq"], 32),
            "encoder_attention_mask": mask(sizes),
        },
        {
            "input_ids": {0: "batch", 1: "target"},
            "encoder_hidden_states": {0: "batch", 1: "seq"},
            "encoder_attention_mask": {0: "batch", 1: "seq"},
        },
        {"batch": 2, "seq": 9, "target": 6},
        ({"batch": 1, "seq": 5, "target": 8}, {"batch": 3, "seq": 14, "target": 3}),
    )


def two_towers(config: Any) -> Case:
    """Images beside texts; a batch of each, of its own size."""
    return Case(
        lambda: hf.AutoModel.from_config(config),
        lambda sizes: {
            "input_ids": ids(sizes),
            "pixel_values": torch.randn(sizes["images"], 3, 32, 32),
            "attention_mask": mask(sizes),
        },
        {
            "input_ids": {0: "batch", 1: "seq"},
            "pixel_values": {0: "images"},
            "attention_mask": {0: "batch", 1: "seq"},
        },
        {"batch": 2, "seq": 9, "images": 3},
        ({"batch": 1, "seq": 5, "images": 2}, {"batch": 3, "seq": 14, "images": 4}),
    )


def whisper_encoder() -> Case:
    """Whisper's encoder; its length is fixed by its learned positions."""
    config = hf.WhisperConfig(d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
                              decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, vocab_size=99,
                              num_mel_bins=16, max_source_positions=20, max_target_positions=24,
                              pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)  # fmt: skip
    return Case(
        lambda: hf.WhisperModel(config).encoder,
        lambda sizes: {"input_features": torch.randn(sizes["batch"], 16, 40)},
        {"input_features": {0: "batch"}},
        {"batch": 2},
        ({"batch": 1}, {"batch": 3}),
    )


def mamba_config() -> hf.MambaConfig:
    """A small Mamba."""
    return hf.MambaConfig(vocab_size=99, hidden_size=32, num_hidden_layers=2, state_size=4, use_cache=False)


def mamba() -> Case:
    """Mamba as it is: its loop over the sequence is Python's, so whoever traces it fixes the length."""
    case = text(mamba_config(), hf.MambaForCausalLM)
    dynamic = {name: {0: "batch"} for name in case.dynamic}
    return Case(case.make, case.inputs, dynamic, others=({"batch": 1, "seq": 9}, {"batch": 3, "seq": 9}))


def selective_scan(
    hidden_states: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor,
    D: torch.Tensor, z: torch.Tensor, delta_bias: torch.Tensor, **options: Any,
) -> Any:  # fmt: skip
    """Mamba's ``mamba_selective_scan`` with its loop written as torch's ``scan``, which has no fixed length."""
    dt = nn.functional.softplus(dt + delta_bias[..., None])
    decay = torch.exp(A[None, :, None, :] * dt[..., None])
    gain = dt[..., None] * B.transpose(1, 2)[:, None] * hidden_states[..., None]

    def step(state: torch.Tensor, x: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        state = x[0] * state + x[1]
        return state, (state @ x[2][..., None])[..., 0]

    start = torch.zeros_like(gain[:, :, 0])
    along = (decay.movedim(2, 0), gain.movedim(2, 0), C.movedim(2, 0))
    state, y = scan(step, start, along)
    y = (y.movedim(0, -1) + hidden_states * D[None, :, None]) * nn.functional.silu(z)
    return (y, state) if options.get("return_last_state") else y


class ScannedMamba(hf.MambaForCausalLM):
    """Mamba over sequences of any length."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        with mock.patch.object(modeling_mamba, "mamba_selective_scan", selective_scan):
            return super().forward(input_ids, attention_mask=attention_mask)


def backbone() -> hf.ResNetConfig:
    """A small ResNet."""
    return hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic",
                           out_features=["stage4"])  # fmt: skip


def detr() -> Case:
    """DETR over a small ResNet, with its pixel mask."""
    config = hf.DetrConfig(use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
                           backbone_config=backbone(), d_model=32, encoder_layers=2, decoder_layers=2,
                           encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
                           decoder_ffn_dim=48, num_queries=7)  # fmt: skip
    return image(
        config, hf.DetrForObjectDetection, 64,
        ({"batch": 1, "height": 96, "width": 64}, {"batch": 3, "height": 80, "width": 112}),
        pixel_mask=lambda s: torch.ones(s["batch"], s["height"], s["width"], dtype=torch.long),
    )  # fmt: skip


SIDES: tuple[Sizes, ...] = ({"batch": 1, "height": 48, "width": 40}, {"batch": 3, "height": 56, "width": 72})
WIDE_SIDES: tuple[Sizes, ...] = ({"batch": 1, "height": 96, "width": 64}, {"batch": 3, "height": 64, "width": 128})

#: Every architecture by name. A case is built when it is asked for, and so are configurations.
CASES: dict[str, Callable[[], Case]] = {
    # -- encoders of text
    "BERT": lambda: text(hf.BertConfig(**ENCODER)),
    "DistilBERT": lambda: text(hf.DistilBertConfig(
        vocab_size=99, dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=64)),
    "RoBERTa": lambda: text(hf.RobertaConfig(**ENCODER)),
    "DeBERTa-v2": lambda: text(hf.DebertaV2Config(
        **ENCODER, relative_attention=True, position_buckets=8, norm_rel_ebd="layer_norm", pos_att_type=["p2c", "c2p"],
        share_att_key=True, position_biased_input=False)),
    "ALBERT": lambda: text(hf.AlbertConfig(**ENCODER, embedding_size=16)),
    "MobileBERT": lambda: text(hf.MobileBertConfig(
        **ENCODER, embedding_size=16, intra_bottleneck_size=16, true_hidden_size=16)),
    "ELECTRA": lambda: text(hf.ElectraConfig(**ENCODER, embedding_size=16)),
    "MPNet": lambda: text(hf.MPNetConfig(**ENCODER)),
    "ModernBERT": lambda: text(hf.ModernBertConfig(
        **ENCODER, pad_token_id=0, local_attention=6, attn_implementation="sdpa", reference_compile=False)),
    "ConvBERT": lambda: text(hf.ConvBertConfig(**ENCODER, embedding_size=16)),
    "SqueezeBERT": lambda: text(hf.SqueezeBertConfig(**ENCODER, embedding_size=32)),
    "XLNet": lambda: text(hf.XLNetConfig(vocab_size=99, d_model=32, n_layer=2, n_head=4, d_inner=48)),
    "T5 encoder": lambda: text(hf.T5Config(**T5), hf.T5EncoderModel),
    # -- encoders with decoders
    "T5 decoder": t5_decoder,
    "T5": lambda: pair(hf.T5Config(**T5)),
    "BART": lambda: pair(hf.BartConfig(
        vocab_size=99, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64,
        use_cache=False)),
    # -- decoders
    "GPT-2": lambda: text(hf.GPT2Config(
        vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64, use_cache=False), hf.GPT2LMHeadModel),
    "OPT": lambda: text(hf.OPTConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, word_embed_proj_dim=32,
        max_position_embeddings=64, use_cache=False), hf.OPTForCausalLM),
    "GPT-NeoX": lambda: text(hf.GPTNeoXConfig(**DECODER), hf.GPTNeoXForCausalLM),
    "BLOOM": lambda: text(hf.BloomConfig(
        vocab_size=99, hidden_size=32, n_layer=2, n_head=4, use_cache=False), hf.BloomForCausalLM),
    "LLaMA": lambda: text(hf.LlamaConfig(**GROUPED), hf.LlamaForCausalLM),
    "Mistral": lambda: text(hf.MistralConfig(**GROUPED, sliding_window=6), hf.MistralForCausalLM),
    "Qwen2": lambda: text(hf.Qwen2Config(**GROUPED), hf.Qwen2ForCausalLM),
    "Qwen3": lambda: text(hf.Qwen3Config(**GROUPED, head_dim=8), hf.Qwen3ForCausalLM),
    "Gemma": lambda: text(hf.GemmaConfig(**GROUPED, head_dim=8), hf.GemmaForCausalLM),
    "Gemma 2": lambda: text(hf.Gemma2Config(**GROUPED, head_dim=8, sliding_window=6), hf.Gemma2ForCausalLM),
    "Phi": lambda: text(hf.PhiConfig(**GROUPED), hf.PhiForCausalLM),
    "Phi-3": lambda: text(hf.Phi3Config(**GROUPED), hf.Phi3ForCausalLM),
    "Gemma 3": lambda: text(hf.Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=6), hf.Gemma3ForCausalLM),
    "Falcon": lambda: text(hf.FalconConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, use_cache=False),
        hf.FalconForCausalLM),
    "Mixtral": lambda: text(hf.MixtralConfig(
        **GROUPED, num_local_experts=4, experts_implementation="batched_mm"), hf.MixtralForCausalLM),
    "GPT-OSS": lambda: text(hf.GptOssConfig(
        **GROUPED, head_dim=8, num_local_experts=4, num_experts_per_tok=2, experts_implementation="batched_mm",
        sliding_window=6), hf.GptOssForCausalLM),
    "Qwen2-MoE": lambda: text(hf.Qwen2MoeConfig(
        **GROUPED, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, shared_expert_intermediate_size=40,
        experts_implementation="batched_mm"), hf.Qwen2MoeForCausalLM),
    "OLMoE": lambda: text(hf.OlmoeConfig(
        **GROUPED, num_experts=4, num_experts_per_tok=2, experts_implementation="batched_mm"), hf.OlmoeForCausalLM),
    "Mamba": mamba,
    "Mamba with torch's scan": lambda: text(mamba_config(), ScannedMamba),
    # -- images
    "ViT": lambda: image(hf.ViTConfig(**PATCHES)),
    "DeiT": lambda: image(hf.DeiTConfig(**PATCHES)),
    "BEiT": lambda: image(hf.BeitConfig(**PATCHES, use_relative_position_bias=True)),
    "DINOv2": lambda: image(hf.Dinov2Config(**PATCHES), None, 40, SIDES),
    "Swin": lambda: image(hf.SwinConfig(
        image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4)),
    "Swin v2": lambda: image(hf.Swinv2Config(
        image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4)),
    "PVT": lambda: image(hf.PvtConfig(
        image_size=64, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4]), None, 64),
    "MobileViT": lambda: image(hf.MobileViTConfig(
        image_size=64, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 32], num_attention_heads=2),
        None, 64),
    "EfficientNet": lambda: image(hf.EfficientNetConfig(
        image_size=64, width_coefficient=0.25, depth_coefficient=0.25, hidden_dim=320), None, 64, WIDE_SIDES),
    "ConvNeXt": lambda: image(hf.ConvNextConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1]), hf.ConvNextForImageClassification, 64, WIDE_SIDES),
    "SegFormer": lambda: image(hf.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 2, 4], decoder_hidden_size=16),
        hf.SegformerForSemanticSegmentation, 64, WIDE_SIDES),
    "ResNet": lambda: image(backbone(), hf.ResNetForImageClassification, 64, WIDE_SIDES),
    "MobileNetV2": lambda: image(
        hf.MobileNetV2Config(depth_multiplier=0.35, tf_padding=False), None, 64, WIDE_SIDES),
    "DETR": detr,
    "YOLOS": lambda: image(hf.YolosConfig(
        **{**PATCHES, "image_size": [32, 32]}, num_detection_tokens=5), hf.YolosForObjectDetection),
    # -- both
    "CLIP": lambda: two_towers(hf.CLIPConfig(
        text_config={**ENCODER, "bos_token_id": 1, "eos_token_id": 98, "pad_token_id": 0}, vision_config=PATCHES,
        projection_dim=16)),
    "SigLIP": lambda: two_towers(hf.SiglipConfig(
        text_config={**ENCODER, "projection_size": 32}, vision_config=PATCHES)),
    # -- sound
    "Whisper encoder": whisper_encoder,
    "Wav2Vec2": lambda: speech(hf.Wav2Vec2Config(**SPEECH)),
    "HuBERT": lambda: speech(hf.HubertConfig(**SPEECH)),
}  # fmt: skip
