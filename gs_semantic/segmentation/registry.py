"""The lifting methods by name. A module in ``methods/`` whose class is decorated with ``@register`` is one of them."""

from __future__ import annotations

from gs_semantic.segmentation import methods
from gs_semantic.segmentation.method import LiftingMethod
from gs_semantic.segmentation.registered import Registered

_METHODS: Registered[LiftingMethod] = Registered(methods)
register, all_methods, method_class = _METHODS.register, _METHODS.all, _METHODS.find
