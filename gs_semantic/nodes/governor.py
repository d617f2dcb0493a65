"""Holds the budgets: looks once a second at what the mapper takes, sets its limits, and says what that costs."""

from __future__ import annotations

import time

from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.mapper import Mapper
from gs_semantic.mapping.trim import bytes_per_gaussian, bytes_per_keyframe, give_back, give_back_at_once, trim
from gs_semantic.nodes.budgets import SAFETY, Bandwidth, Limits, Memory, Pace, Rest, answers_within, held
from gs_semantic.nodes.mapper_parameters import NodeParameters
from gs_semantic.nodes.statistics import Statistics, Window

TICK_S = 1.0
HZ, MBPS = "budget.hz", "budget.mbps"
# Images and tables of changing sizes leave the heap full of holes that the system counts as ours, and that grow for hours.
GIVE_BACK_S = 15.0
GIVE_BACK_NEAR_S = 3.0  # near budget.mb: what the heap holds for nothing must not cost Gaussians
FULL = 0.98  # of a limit: from here on it costs something


class Governor:
    """Budgets of one mapper. ``tick`` belongs to the thread that maps, ``may_answer`` to the one that answers."""

    def __init__(self, parameters: NodeParameters, config: MapperConfig, statistics: Statistics) -> None:
        self._parameters, self._config, self._statistics = parameters, config, statistics
        self.bandwidth = Bandwidth("answers", "map")
        self.bandwidth.limit_mbps = parameters.budget_mbps
        self._pace, self._rest = Pace(), Rest()
        self._withheld = {HZ: Window(), MBPS: Window()}  # frames left without answer
        self._memory = Memory()
        self._at_once = False  # has memory, since there is a budget of it, been given back at once?
        self._limits = Limits(config.max_gaussians, config.max_keyframes)
        self._due = 0.0
        self._given_back = time.monotonic()
        self.answers_kept = parameters.answers_kept
        self.splats_waiting = 0
        self.given_up: list[str] = []

    # --- answers ------------------------------------------------------------------------------------------------------

    def may_answer(self) -> bool:
        """Is there room in budget.mbps and budget.hz for the answer to the frame at hand?"""
        if self.bandwidth.allowance("answers") <= 0:
            self._withheld[MBPS].add()
            return False
        if not self._pace.take(self._parameters.budget_hz):
            self._withheld[HZ].add()
            return False
        return True

    def rest_s(self, worked_s: float) -> float:
        """How long mapping should rest after so much work."""
        return self._rest.after(worked_s) if self._rest.share else 0.0

    # --- once a second ------------------------------------------------------------------------------------------------

    def tick(self, mapper: Mapper, answering: bool, answers: int = 0, answer_mb: float = 0.0) -> None:
        """Look at everything and set limits.

        answering: does anybody listen to answers? answers: so many are kept now, each of answer_mb.
        """
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + TICK_S
        self.bandwidth.limit_mbps = self._parameters.budget_mbps
        self._hold_rate(answering)
        if now - self._given_back >= (GIVE_BACK_NEAR_S if self._near_budget() else GIVE_BACK_S):
            give_back()
            self._given_back = now
        self.answers_kept = answers_within(self._parameters.budget_mb, answer_mb, self._parameters.answers_kept)
        self._hold_memory(mapper, reserve_mb=max(0, self.answers_kept - answers) * answer_mb)
        self.given_up = [*self._memory_costs(mapper), *self._rate_costs(), *self._bandwidth_costs()]

    def _hold_rate(self, answering: bool) -> None:
        goal = min(self._parameters.budget_hz, self._statistics.inputs.rate_hz())
        limited = self._withheld[MBPS].rate_hz() > 0  # then resting would not help
        self._rest.adjust(self._statistics.answers.rate_hz(), goal if answering and not limited else 0.0)

    def _near_budget(self) -> bool:
        budget_mb = self._parameters.budget_mb
        return bool(budget_mb) and self._statistics.rss_mb() > SAFETY * budget_mb

    def _hold_memory(self, mapper: Mapper, reserve_mb: float) -> None:
        if self._parameters.budget_mb and not self._at_once:
            give_back_at_once()
            give_back()
            self._at_once = True
        wanted = Limits(self._config.max_gaussians, self._config.max_keyframes)
        gaussians, keyframes = len(mapper.gaussians), len(mapper.keyframes)
        limits = self._memory.limits(
            self._parameters.budget_mb,
            self._statistics.rss_mb(),
            gaussians,
            keyframes,
            bytes_per_gaussian(mapper.gaussians),
            bytes_per_keyframe(mapper) / 1e6,
            reserve_mb,
            wanted,
        )
        self._limits = limits
        mapper.config.max_gaussians, mapper.config.max_keyframes = limits.gaussians, limits.keyframes
        most = min(limits.cut or gaussians, wanted.gaussians)
        if gaussians > most or keyframes > limits.keyframes:
            trim(mapper, most, limits.keyframes)
            give_back()

    # --- what it costs ------------------------------------------------------------------------------------------------

    def _memory_costs(self, mapper: Mapper) -> list[str]:
        limits, wanted = self._limits, self._config
        budget = f"{self._parameters.budget_mb:g} MB"
        if limits.cannot:
            alone = f"the process takes {self._statistics.rss_mb():.0f} MB with the smallest map there can be"
            return [held("budget.mb", budget, alone)]
        full = len(mapper.gaussians) >= FULL * limits.gaussians
        limited = limits.gaussians < wanted.max_gaussians or limits.keyframes < wanted.max_keyframes
        costs = []
        if limited and (full or len(mapper.keyframes) >= limits.keyframes):
            costs.append(
                f"at most {limits.gaussians} Gaussians and {limits.keyframes} keyframes are kept instead of "
                f"{wanted.max_gaussians} and {wanted.max_keyframes}"
            )
        if self.answers_kept < self._parameters.answers_kept:
            costs.append(f"{self.answers_kept} answers are kept instead of {self._parameters.answers_kept}")
        told = [held("budget.mb", budget, ", ".join(costs))] if costs else []
        if full and not limited:
            told.append(
                held("max_gaussians", str(wanted.max_gaussians), "surfaces that are new are left out of the map")
            )
        return told

    def _rate_costs(self) -> list[str]:
        costs = []
        if self._rest.share:
            costs.append(f"mapping rests {self._rest.share:.0%} of its time")
        if skipped := self._withheld[HZ].rate_hz():
            costs.append(f"{skipped:.1f} frames per second are mapped without an answer")
        return [held(HZ, f"{self._parameters.budget_hz:g} Hz", ", ".join(costs))] if costs else []

    def _bandwidth_costs(self) -> list[str]:
        costs = []
        if skipped := self._withheld[MBPS].rate_hz():
            costs.append(f"{skipped:.1f} frames per second are mapped without an answer")
        if self._parameters.budget_mbps and self.splats_waiting:
            costs.append(f"{self.splats_waiting} splats wait to be sent")
        return [held(MBPS, f"{self._parameters.budget_mbps:g} Mbit/s", ", ".join(costs))] if costs else []
