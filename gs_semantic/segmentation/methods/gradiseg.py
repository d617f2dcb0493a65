"""GradiSeg (arXiv 2412.00392): Gaussian Grouping whose Gaussians are split where their identity is pulled two ways.

Two parts. *Identity-gradient guided densification* (IGD, section 3.4) watches the gradients of the identities between
two iterations and splits what straddles a boundary. *Local adaptive KNN* (LA-KNN, section 3.5) draws the neighbours
that are made alike from the side to which a Gaussian moves. No code was published, and the paper leaves thresholds and
placement open: each is an option here, and docs/training.md lists what was chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from gs_semantic.gaussians.gaussian_map import rotation_matrices
from gs_semantic.rendering.base import world_to_camera
from gs_semantic.segmentation.config import option
from gs_semantic.segmentation.densification import CHILDREN, SHRINK
from gs_semantic.segmentation.engine import ImageGradients, Pass, StepStatistics
from gs_semantic.segmentation.methods.grouping import GaussianGrouping, GroupingConfig
from gs_semantic.segmentation.neighbours import DeviceNeighbourIndex, NeighbourIndex
from gs_semantic.segmentation.registry import register
from gs_semantic.segmentation.splitting import split_across

NEAR_M = 0.05
AROUND = 64  # nearest neighbours that tell where other objects are


@dataclass(frozen=True)
class GradisegConfig(GroupingConfig):
    """Options of GradiSeg; what the paper states is the default, and what it leaves open says so."""

    densify_until: int = option(12_000, "last iteration of ordinary densification", low=0, schedule=True)
    igd: bool = option(True, "identity-gradient guided densification; without it, densification just ends")
    igd_from: int = option(12_000, "iteration after which it watches", low=0, schedule=True)
    igd_until: int = option(15_000, "its last iteration", low=0, schedule=True)
    igd_every: int = option(100, "iterations between two rounds (open in the paper)", low=1)
    igd_select: str = option(
        "quantile", "what is a large gradient: above a quantile of those in view, or above igd_threshold (open)",
        choices=("quantile", "threshold"),
    )  # fmt: skip
    igd_quantile: float = option(0.99, "that quantile (open)", low=0, high=1)
    igd_threshold: float = option(50.0, "mean norm of the identity's gradient, times pixels of a view (open)", low=0)
    igd_score: str = option(
        "cancelled", "gradients are added up as norms, or as what of the norms cancels between views (open)",
        choices=("norm", "cancelled"),
    )  # fmt: skip
    igd_conflict: float = option(0.0, "least 1 - |sum of gradients| / sum of |gradients|; 0: any (open)", low=0, high=1)
    igd_radius_px: float = option(4.0, "least radius in any view, px (open)", low=0)
    igd_axis: str = option(
        "conflict", "axis of the split: where the gradient changes most within the Gaussian, or its longest (open)",
        choices=("conflict", "longest"),
    )  # fmt: skip
    igd_axis_mixes: int = option(
        4, "random mixes of the identity's channels that this change is taken of, unbiased; 0: all channels", low=0
    )
    igd_children: str = option(
        "moments", "children that keep the parent's moments, or drawn from it as 3D Gaussian Splatting does (open)",
        choices=("moments", "random"),
    )  # fmt: skip
    igd_other_axes: float = option(1.0, "the other axes of children are narrower by this (open)", low=1)
    igd_thin_opacity: bool = option(False, "children of less opacity, that hide as much as the parent (open)")
    igd_round_share: float = option(0.02, "most of all Gaussians that one round splits (open)", low=0, high=1)
    igd_total_share: float = option(
        0.2, "most Gaussians that all rounds add, share of those at the first (open)", low=0
    )
    igd_room: str = option(
        "on_top", "what IGD adds comes on top of max_gaussians, or ordinary densification leaves room for it (open)",
        choices=("on_top", "reserved"),
    )  # fmt: skip
    igd_prune: bool = option(True, "remove faint Gaussians at the end of the window (open)")
    la_knn: bool = option(True, "local adaptive KNN; without it, Euclidean neighbours throughout")
    la_from: int = option(12_000, "its first iteration (the paper's supplement: 15,000)", low=0, schedule=True)
    la_candidates: int = option(64, "nearest neighbours it chooses from; 0: all, as Eq. 4 reads (open)", low=0)
    la_side: str = option(
        "gradient", "side it takes: to which the centre moves, or away from near Gaussians with another id (open)",
        choices=("gradient", "identity"),
    )  # fmt: skip

    # a short run has six rounds in place of thirty, so each has to choose five times as many for the same growth
    presets: ClassVar = {
        "quick": {"igd_every": 50, "igd_quantile": 0.95, "igd_round_share": 0.05},
        "standard": {"igd_room": "reserved"},  # whose limit is one of time
    }


@register
class GradiSeg(GaussianGrouping):
    """Gaussian Grouping with IGD and LA-KNN; both can be switched off."""

    name = "gradiseg"
    summary = "GradiSeg: Gaussians split at object boundaries, neighbours from one side"
    Config = GradisegConfig
    config: GradisegConfig

    def prepare(self) -> None:
        super().prepare()
        self.first_count = 0  # Gaussians at the start of the window
        self._watch_anew()

    def _watch_anew(self) -> None:
        count, channels, device = len(self.gaussians), self.config.identity_dims, self.device
        self.norms, self.views = torch.zeros(2, count, device=device).unbind()
        self.sums = torch.zeros(count, channels, device=device)
        self.changes = torch.zeros(count, 3, 3, device=device)  # in the frame of the Gaussian with deviations of 1

    def watching(self, iteration: int) -> bool:
        """Is this an iteration of the window of IGD?"""
        return self.config.igd and self.config.igd_from < iteration <= self.config.igd_until

    # --- identity-gradient guided densification -----------------------------------------------------------------------

    def wants_feature_gradients(self, iteration: int) -> bool:
        return self.watching(iteration)

    def before_step(self, iteration: int, index: int, forward: Pass, gradients: ImageGradients) -> None:
        if self.watching(iteration) and self.config.igd_axis == "conflict" and gradients.features is not None:
            self._observe_changes(forward, gradients.features)

    def _observe_changes(self, forward: Pass, gradient: torch.Tensor) -> None:
        """Add how the gradient of the image changes across each Gaussian.

        With G(p) the gradient at a pixel and w(p) the Gaussian's weight there, M = sum_p w(p) G(p) (p - c)^T, (D,2),
        says in which direction G differs at both ends. Seen from the Gaussian's own frame with deviations of 1, it is
        M J, J the derivative of pixels by that frame; the largest eigenvector of the sum of (M J)^T (M J) over views is
        the axis along which identities are pulled apart most. With D' random mixes of the channels, G R in the place of
        G where the mean of R R^T is 1, that sum is right in the mean, and the drawing is of 3 D' channels, not 3 D.
        """
        camera, gaussians, mixes = forward.camera, self.gaussians, self.config.igd_axis_mixes
        height, width, channels = gradient.shape
        scaled = gradient * (height * width)
        if 0 < mixes < channels:
            drawn = self.random.standard_normal((channels, mixes), dtype=np.float32) / mixes**0.5
            scaled, channels = scaled @ self.on_device(drawn), mixes
        sides = (torch.arange(side, device=self.device) for side in (height, width))
        v, u = torch.meshgrid(*sides, indexing="ij")
        u, v = (u - width / 2).float()[..., None], (v - height / 2).float()[..., None]
        image = torch.cat([scaled, scaled * u, scaled * v], dim=2)
        if forward.view is not None:  # projected already
            found = forward.view.accumulate(image)
        else:
            found = self.rasterizer.accumulate(gaussians, camera, image, count=False)
        # on a device the host would wait for how many are in view; those that are not get sums of 0
        rows = torch.nonzero(found.weight_sum > 0)[:, 0] if self.device.type == "cpu" else slice(None)
        total, by_u, by_v = found.weighted_sum[rows].split(channels, dim=1)
        pose = world_to_camera(camera, self.device)
        local = gaussians.means[rows] @ pose[:3, :3].T + pose[:3, 3]
        z = local[:, 2].clamp(min=NEAR_M)
        centre_u = camera.fx * local[:, 0] / z + camera.cx - width / 2
        centre_v = camera.fy * local[:, 1] / z + camera.cy - height / 2
        moments = torch.stack([by_u - centre_u[:, None] * total, by_v - centre_v[:, None] * total], dim=2)
        across = pose[:3, :3] @ rotation_matrices(gaussians.quats[rows]) * gaussians.log_scales[rows].exp()[:, None, :]
        jacobian = torch.stack(
            [
                camera.fx * (across[:, 0] - (local[:, :1] / z[:, None]) * across[:, 2]) / z[:, None],
                camera.fy * (across[:, 1] - (local[:, 1:2] / z[:, None]) * across[:, 2]) / z[:, None],
            ],
            dim=1,
        )
        change = moments @ jacobian
        self.changes[rows] += change.transpose(1, 2) @ change

    def observe(self, iteration: int, index: int, statistics: StepStatistics) -> None:
        super().observe(iteration, index, statistics)
        if statistics.features is None:
            return
        camera = self.scene.train[index].camera
        gradients = statistics.features * (camera.width * camera.height)
        self.norms[statistics.rows] += gradients.norm(dim=1)
        self.sums[statistics.rows] += gradients
        self.views[statistics.rows] += statistics.in_view

    def densify(self, iteration: int) -> None:
        config = self.config
        if config.igd and config.max_gaussians:
            ordinary = iteration <= config.igd_from
            if config.igd_room == "on_top":
                self.densifier.limit = int(config.max_gaussians * (1.0 if ordinary else 1 + config.igd_total_share))
            else:
                self.densifier.limit = int(config.max_gaussians / (1 + config.igd_total_share if ordinary else 1.0))
        super().densify(iteration)
        if iteration == config.igd_from:
            self.first_count = len(self.gaussians)
        if self.watching(iteration) and iteration % config.igd_every == 0:
            self._split_candidates()
        if config.igd and config.igd_prune and iteration == config.igd_until:
            self.densifier.prune(self.densifier.radius, False)
            self.rows_changed()

    def candidates(self) -> torch.Tensor:
        """Rows whose identity gets large gradients in different directions, those with the largest first."""
        config = self.config
        whole = self.norms - self.sums.norm(dim=1) if config.igd_score == "cancelled" else self.norms
        score = whole / self.views.clamp(min=1)
        seen = self.views > 0
        if not seen.any():
            return torch.zeros(0, dtype=torch.long, device=self.device)
        limit = config.igd_threshold
        if config.igd_select == "quantile":
            limit = float(np.quantile(score[seen].cpu().numpy(), config.igd_quantile))
        chosen = seen & (score > limit) & (self.densifier.radius >= config.igd_radius_px)
        if config.igd_conflict > 0:
            chosen &= 1 - self.sums.norm(dim=1) / (self.norms + 1e-12) > config.igd_conflict
        rows = torch.nonzero(chosen)[:, 0]
        return rows[score[rows].argsort(descending=True, stable=True)]

    def _split_candidates(self) -> None:
        config, count = self.config, len(self.gaussians)
        first = self.first_count or count
        most = min(int(config.igd_round_share * count), first + int(config.igd_total_share * first) - count)
        if self.densifier.room is not None:
            most = min(most, self.densifier.room)
        rows = self.candidates()[: max(0, most)].sort().values
        if len(rows):
            self._split(rows)
        self.densifier.forget()
        self.rows_changed()

    def _split(self, rows: torch.Tensor) -> None:
        config = self.config
        if config.igd_children == "random":
            self.gaussians.split(rows, CHILDREN, SHRINK, seed=int(self.random.integers(2**31)))
            return
        axes = torch.nn.functional.one_hot(self.gaussians.log_scales[rows].argmax(dim=1), 3).float()
        if config.igd_axis == "conflict":
            values, vectors = torch.linalg.eigh(self.changes[rows].double())
            known = values[:, 2] > 0
            axes[known] = vectors[known, :, 2].float()
        split_across(self.gaussians, rows, axes, SHRINK, config.igd_other_axes, config.igd_thin_opacity)

    def rows_changed(self) -> None:
        super().rows_changed()
        self._watch_anew()

    # --- local adaptive KNN -------------------------------------------------------------------------------------------

    # Adam's running mean of the gradient: the sharper of what the paper's single gradient could be

    def find_neighbours(self, iteration: int, index: NeighbourIndex, targets: np.ndarray) -> np.ndarray:
        config = self.config
        if not config.la_knn or iteration < config.la_from:
            return super().find_neighbours(iteration, index, targets)
        if config.la_side == "identity":
            side = self._away_from_others(torch.from_numpy(index.rows[index.nearest(targets, AROUND + 1)]))
        else:
            side = -self.engine.mean_direction(torch.from_numpy(index.rows[targets]))
        directions = side.numpy().astype(np.float64)
        return index.adaptive(targets, directions, config.neighbours, config.la_candidates)

    def find_device_neighbours(
        self, iteration: int, index: DeviceNeighbourIndex, targets: torch.Tensor
    ) -> torch.Tensor:
        config = self.config
        if not config.la_knn or iteration < config.la_from:
            return super().find_device_neighbours(iteration, index, targets)
        if config.la_side == "identity":
            directions = self._away_from_others(index.rows[index.nearest(targets, AROUND + 1)])
        else:
            directions = -self.engine.mean_direction(index.rows[targets])
        return index.adaptive(targets, directions, config.neighbours, config.la_candidates)

    @torch.no_grad()
    def _away_from_others(self, rows: torch.Tensor) -> torch.Tensor:
        """(T,3) of Gaussians and their neighbours, rows (T,1+K): minus the sum of the unit vectors to those whose most
        probable class is another; 0, no direction, where there are none."""
        classes = self.classifier(self.gaussians["identity"][rows.reshape(-1)]).argmax(dim=1).reshape(rows.shape)
        means = self.gaussians.means[rows]
        apart = torch.nn.functional.normalize(means[:, 1:] - means[:, :1], dim=2)
        return -(apart * (classes[:, 1:] != classes[:, :1])[..., None]).sum(dim=1)

    def state_dict(self) -> dict[str, Any]:
        names = ("first_count", "norms", "views", "sums", "changes")
        return super().state_dict() | {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.first_count = state["first_count"]
        for name in ("norms", "views", "sums", "changes"):
            setattr(self, name, state[name].to(self.device))
