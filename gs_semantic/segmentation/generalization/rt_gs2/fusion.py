"""How RT-GS2 joins what the view shows with what the scene is: LAFS and cross attention (AsymFormer, 2309.14065)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

DROPOUT = 0.2


class LocalAttentionSelection(nn.Module):
    """LAFS: channels of both maps weighed by what the whole image has, places by how much they have of it.

    (B,C,h,w) -> (B,width,h,w), C that of both maps.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.place = nn.Sequential(
            nn.Linear(channels, channels // 16, bias=False), nn.ReLU(), nn.Linear(channels // 16, channels, bias=False)
        )
        self.channel = nn.Sequential(
            nn.Linear(channels, channels // 8, bias=False), nn.ReLU(), nn.Linear(channels // 8, channels, bias=False)
        )
        self.out = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = x.mean(dim=(2, 3))
        weight = self.place(whole)
        # divided by the number of channels twice, as in the published code
        gate = torch.sigmoid(torch.einsum("bchw,bc->bhw", x, weight) / x.shape[1] ** 2)
        chosen = torch.sigmoid(self.channel(whole))
        return self.out(x * gate[:, None] * chosen[:, :, None, None])


class CrossModalAttention(nn.Module):
    """CMA: every place asks all others, with questions and keys made of both maps; what they answer is the joined map."""

    def __init__(self, feature_width: int, image_width: int) -> None:
        super().__init__()
        self.key_width, self.value_width = image_width // 4, feature_width // 4
        self.norm_features, self.norm_image = nn.BatchNorm2d(feature_width), nn.BatchNorm2d(image_width)
        self.from_features = nn.Linear(feature_width, 2 * self.key_width)
        self.from_image = nn.Linear(image_width, 2 * self.key_width)
        self.value = nn.Linear(feature_width, 2 * self.value_width)
        self.out = nn.Linear(2 * self.value_width, feature_width)
        self.norm_out = nn.BatchNorm2d(feature_width)

    def forward(self, features: torch.Tensor, image: torch.Tensor, joined: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = features.shape
        both = torch.cat(
            [
                self.from_features(_tokens(self.norm_features(features))),
                self.from_image(_tokens(self.norm_image(image))),
            ],
            dim=-1,
        )
        # two groups of channels shuffled into each other, so that each key and question has parts of both maps
        both = both.reshape(batch, -1, 2, 2 * self.key_width).transpose(2, 3)
        key1, query1, key2, query2 = both.reshape(batch, -1, 4, self.key_width).unbind(dim=2)
        value = self.value(_tokens(joined)).reshape(batch, -1, 2, self.value_width).transpose(1, 2)
        # fused attention, which keeps no table of all pairs of places, wants values as wide as keys
        value = F.pad(value, (0, max(0, self.key_width - self.value_width)))
        answers = F.scaled_dot_product_attention(
            torch.stack([query1, query2], dim=1),
            torch.stack([key1, key2], dim=1),
            value,
            dropout_p=DROPOUT if self.training else 0.0,
        )
        answers = answers[..., : self.value_width]
        out = self.out(answers.transpose(1, 2).reshape(batch, height * width, -1))
        return joined + self.norm_out(out.transpose(1, 2).reshape(batch, -1, height, width))


class Fusion(nn.Module):
    """Both of them; the result takes the place of the map of the scene's features."""

    def __init__(self, feature_width: int, image_width: int) -> None:
        super().__init__()
        self.select = LocalAttentionSelection(feature_width + image_width, feature_width)
        self.attend = CrossModalAttention(feature_width, image_width)

    def forward(self, features: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        joined = self.select(torch.cat([features, image], dim=1))
        return self.attend(features, image, joined)


def _tokens(x: torch.Tensor) -> torch.Tensor:
    """(B,C,h,w) -> (B,h*w,C)."""
    return x.flatten(2).transpose(1, 2)
