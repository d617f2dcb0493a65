"""Models of the real classes, but tiny and with random weights, saved as their users have them: in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

SWIN = {
    "image_size": 64,
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 4,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
CLASSES = {0: "chair", 1: "table", 2: "wall"}


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def sam2(folder: Path) -> Path:
    torch.manual_seed(0)
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[64, 64],
        blocks_per_stage=[1, 1, 1, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[4, 4, 2, 2],
        global_attention_blocks=[],
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        fpn_hidden_size=32,
    )
    prompt = transformers.Sam2PromptEncoderConfig(hidden_size=32, image_size=64, mask_input_channels=4)
    decoder = transformers.Sam2MaskDecoderConfig(
        hidden_size=32, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=32
    )
    config = transformers.Sam2Config(
        vision_config=vision.to_dict(), prompt_encoder_config=prompt.to_dict(), mask_decoder_config=decoder.to_dict()
    )
    model = transformers.Sam2Model(config)
    for parameter in model.parameters():  # larger than the library draws them, or every mask would be empty
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.2)
    return save(model, folder)


def mask2former(folder: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.Mask2FormerConfig(
        backbone_config=transformers.SwinConfig(**SWIN),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=8,
        id2label=CLASSES,
        label2id={name: key for key, name in CLASSES.items()},
    )
    return preprocessed(save(transformers.Mask2FormerForUniversalSegmentation(config), folder))


def oneformer(folder: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.OneFormerConfig(
        backbone_config=transformers.SwinConfig(**SWIN),
        conv_dim=32,
        mask_dim=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=3,
        num_attention_heads=2,
        num_queries=8,
        task_seq_len=12,
        text_encoder_width=64,
        text_encoder_context_length=12,
        text_encoder_num_layers=1,
        text_encoder_n_ctx=2,
        id2label=CLASSES,
        label2id={name: key for key, name in CLASSES.items()},
    )
    save(transformers.OneFormerForUniversalSegmentation(config), folder)
    clip_tokenizer(folder)
    return preprocessed(folder)


def grounding_dino(folder: Path) -> Path:
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "red", "chair", "table"]
    config = transformers.GroundingDinoConfig(
        backbone_config=transformers.SwinConfig(**(SWIN | {"out_features": ["stage2", "stage3", "stage4"]})),
        text_config=transformers.BertConfig(
            vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        ),
        d_model=32,
        num_queries=10,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_text_len=32,
    )
    save(transformers.GroundingDinoForObjectDetection(config), folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    return preprocessed(folder)


def clip_tokenizer(folder: Path) -> None:
    """A vocabulary of single letters, in the files that CLIP's tokenizer has."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(tokens)}
    transformers.CLIPTokenizer(vocab=vocab, merges=[]).save_pretrained(folder)


def preprocessed(folder: Path) -> Path:
    """Small images, so that tests are quick."""
    content = {"size": {"shortest_edge": 64, "longest_edge": 128}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder


VIT = {
    "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 32, "patch_size": 8
}  # fmt: skip


def vit(folder: Path) -> Path:
    """As DINO's checkpoints are: without the pooling layer that the class of the library has."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(**VIT, intermediate_size=32)
    return save(transformers.ViTModel(config, add_pooling_layer=False), folder)


def dinov2(folder: Path) -> Path:
    torch.manual_seed(0)
    return save(transformers.Dinov2Model(transformers.Dinov2Config(**VIT)), folder)


TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}


def clip(folder: Path) -> Path:
    """One layer, so that a patch's own value depends on that patch alone."""
    torch.manual_seed(0)
    letters = 54  # of the tokenizer below
    text = TOWER | {"num_hidden_layers": 2, "vocab_size": letters, "max_position_embeddings": 40}
    text |= {"bos_token_id": letters - 2, "eos_token_id": letters - 1}
    vision = TOWER | {"num_hidden_layers": 1, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    save(transformers.CLIPModel(config), folder)
    clip_tokenizer(folder)
    return folder


def siglip(folder: Path) -> Path:
    torch.manual_seed(0)
    text = TOWER | {"num_hidden_layers": 1, "vocab_size": 54, "max_position_embeddings": 40}
    vision = TOWER | {"num_hidden_layers": 1, "image_size": 32, "patch_size": 8}
    save(transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision)), folder)
    clip_tokenizer(folder)  # SigLIP's own needs a file that only a trainer of tokenizers can write
    return folder


MAKERS = {
    "clip": clip,
    "siglip": siglip,
    "vit": vit,
    "dinov2": dinov2,
    "sam2": sam2,
    "mask2former": mask2former,
    "oneformer": oneformer,
    "grounded": grounding_dino,
}
