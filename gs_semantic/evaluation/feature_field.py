"""Do rendered features tell classes apart? Cluster indices of feature pixels with true classes as clusters.

Calinski-Harabasz (higher is better) and Davies-Bouldin (lower is better), as CoSegGaussians (arXiv 2401.05925, Table 2)
scores feature fields. Calinski-Harabasz grows with the number of samples, so that number is fixed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gs_semantic.errors import MissingExtraError


@dataclass(frozen=True)
class FeatureFieldScores:
    """NaN where fewer than two classes were seen."""

    calinski_harabasz: float
    davies_bouldin: float


@dataclass
class FeatureFieldScore:
    """Gathers ``pixels`` random pixels of every view; the seed decides which. Pixels of class 0 do not count."""

    pixels: int = 10_000
    seed: int = 0
    _features: list[np.ndarray] = field(default_factory=list, init=False)
    _classes: list[np.ndarray] = field(default_factory=list, init=False)

    def update(self, features: np.ndarray, truth: np.ndarray) -> None:
        """One view: features (H,W,D) and true classes (H,W). ValueError where they differ in size."""
        if features.shape[:2] != truth.shape:
            raise ValueError(f"features {features.shape[:2]} and truth {truth.shape} must have the same size")
        known = np.flatnonzero(truth.ravel())
        random = np.random.default_rng((self.seed, len(self._classes)))
        chosen = random.choice(known, min(self.pixels, len(known)), replace=False)
        self._features.append(features.reshape(-1, features.shape[2])[chosen])
        self._classes.append(truth.ravel()[chosen])

    def result(self) -> FeatureFieldScores:
        """Of all views so far. MissingExtraError without scikit-learn."""
        try:
            from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score
        except ImportError as error:
            raise MissingExtraError.for_module("sklearn", "clustering", "scoring feature fields") from error
        classes = np.concatenate(self._classes) if self._classes else np.zeros(0, np.int64)
        if not 2 <= len(np.unique(classes)) < len(classes):
            return FeatureFieldScores(float("nan"), float("nan"))
        features = np.concatenate(self._features)
        return FeatureFieldScores(
            float(calinski_harabasz_score(features, classes)), float(davies_bouldin_score(features, classes))
        )
