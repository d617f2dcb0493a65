"""Features of images and of words in one space: CLIP and SigLIP models of the transformers library, from a folder.

Images give a dense map, one vector for each patch. CLIP's own patch tokens answer for the whole image; as MaskCLIP (Zhou et
al., ECCV 2022, section 3.1) found, the values that the last attention would have mixed, projected one by one, tell what is at
the patch. SigLIP's image vector is that of an attention pooling head; here every patch goes through the head alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from gs_semantic.errors import InvalidRequestError
from gs_semantic.segmenters.images import normalised
from gs_semantic.segmenters.weights import Weights, choose_device

CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel"}
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PROMPT = "a photo of a {}."


class LanguageFeatures:
    """name: of the space, stored with what is made in it; scale: what cosines are multiplied by before they compete, as
    learned. longest_px: images are scaled to this longer side, rounded to whole patches; 0: the model's own size."""

    def __init__(self, weights: Weights, device: str = "auto", longest_px: int = 0) -> None:
        self.device = choose_device(device)
        self.kind = weights.model_type()
        if self.kind not in CLASSES:
            raise InvalidRequestError(
                f"{weights.location}: holds a model of type '{self.kind}', expected one of {', '.join(CLASSES)} "
                "(as openai/clip-vit-base-patch16 or google/siglip-base-patch16-224)"
            )
        self.model = weights.load(CLASSES[self.kind], self.device)
        self._tokenizer = weights.tokenizer()
        preprocessing = weights.preprocessing()
        standard = (CLIP_MEAN, CLIP_STD) if self.kind == "clip" else ((0.5,) * 3, (0.5,) * 3)
        self._preprocessing = {"image_mean": standard[0], "image_std": standard[1], **preprocessing}
        vision = self.model.config.vision_config
        self._patch, self._longest_px = int(vision.patch_size), longest_px or int(vision.image_size)
        self._longest_text = int(self.model.config.text_config.max_position_embeddings)
        self.scale = float(self.model.logit_scale.exp())
        self.name = f"{self.kind}:{weights.location.rstrip('/').rpartition('/')[2]}"

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 (T, D) of things that words name."""
        tokens = self._tokenizer(
            [PROMPT.format(text) for text in texts],
            padding="max_length" if self.kind == "siglip" else True,  # as it was trained
            truncation=True,
            max_length=self._longest_text,
            return_tensors="pt",
        ).to(self.device)
        known = {name: tokens[name] for name in ("input_ids", "attention_mask") if name in tokens}
        if self.kind == "siglip":
            known.pop("attention_mask", None)  # it reads the padding, too
        found = self.model.text_model(**known).pooler_output
        return self._unit(self.model.text_projection(found) if self.kind == "clip" else found)

    @torch.inference_mode()
    def map(self, rgb: np.ndarray) -> np.ndarray:
        """Unit vectors float32 (h, w, D) of the patches of an image uint8 (H, W, 3)."""
        height, width = rgb.shape[:2]
        scale = self._longest_px / max(height, width)
        tall, wide = (max(1, round(side * scale / self._patch)) for side in (height, width))
        pixels = normalised(rgb, (tall * self._patch, wide * self._patch), self._preprocessing, self.device)
        found = self._clip_patches(pixels) if self.kind == "clip" else self._siglip_patches(pixels)
        return self._unit(found).reshape(tall, wide, -1)

    def _clip_patches(self, pixels: torch.Tensor) -> torch.Tensor:
        vision = self.model.vision_model
        states = vision(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states[-2]
        last = vision.encoder.layers[-1]
        values = last.self_attn.out_proj(last.self_attn.v_proj(last.layer_norm1(states)))
        return self.model.visual_projection(vision.post_layernorm(values[0, 1:]))

    def _siglip_patches(self, pixels: torch.Tensor) -> torch.Tensor:
        vision = self.model.vision_model
        tokens = vision(pixels, interpolate_pos_encoding=True).last_hidden_state[0]
        return vision.head(tokens[:, None])  # every token is an image of its own

    @staticmethod
    def _unit(vectors: torch.Tensor) -> np.ndarray:
        return F.normalize(vectors.float(), dim=-1).cpu().numpy()
