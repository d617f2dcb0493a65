"""The methods that generalise, by name. A module in ``methods/`` whose class is decorated with ``@register`` is one."""

from __future__ import annotations

from gs_semantic.segmentation.generalization import methods
from gs_semantic.segmentation.generalization.method import SceneLearner
from gs_semantic.segmentation.registered import Registered

_LEARNERS: Registered[SceneLearner] = Registered(methods)
register, all_learners, learner_class = _LEARNERS.register, _LEARNERS.all, _LEARNERS.find
