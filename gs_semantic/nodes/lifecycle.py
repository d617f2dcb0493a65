"""A ROS lifecycle node that says why a transition failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from gs_semantic.errors import GsSemanticError


class ManagedNode(LifecycleNode):
    """Subclasses fill in ``configure``, ``activate``, ``deactivate``, ``cleanup`` and ``shutdown``.

    One of them that raises leaves the node in the state it was in (``shutdown``: finalized all the same); the error is
    logged and kept in ``transition_error``. Transitions run one at a time, in the thread of the executor or, while none
    runs, of the caller.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.transition_error: Exception | None = None

    def configure(self) -> None:
        """Read parameters, load, create."""

    def activate(self) -> None:
        """Start to work."""

    def deactivate(self) -> None:
        """Stop to work; what is there stays."""

    def cleanup(self) -> None:
        """Give back what ``configure`` took."""

    def shutdown(self, state: str) -> None:
        """The end, from any state."""

    @property
    def lifecycle_state(self) -> str:
        """``unconfigured``, ``inactive``, ``active``, ``finalized``, or a transition's name."""
        return str(self._state_machine.current_state[1])

    def start(self) -> None:
        """Configure and activate; raises the error of the transition that failed."""
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() is not TransitionCallbackReturn.SUCCESS:
                raise self.transition_error or GsSemanticError(f"the node stays {self.lifecycle_state}")

    def end(self) -> None:
        """Shut down unless that has happened; raises the error of the transition."""
        if self.lifecycle_state != "finalized":
            self.transition_error = None
            self.trigger_shutdown()
            if self.transition_error is not None:
                raise self.transition_error

    def _try(self, name: str, transition: Callable[[], None]) -> TransitionCallbackReturn:
        self.transition_error = None
        try:
            transition()
        except Exception as error:  # noqa: BLE001 - whatever it is, the node must stay manageable
            self.transition_error = error
            self.get_logger().error(f"{name}: {error if isinstance(error, GsSemanticError) else repr(error)}")
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """Leave the graph now: rclpy's own would keep the state machine, and with it the DDS participant, until Python's
        collector comes by; others would go on to see the node."""
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    # --- what rclpy calls ---------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._try("configure", self.configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._try("activate", self.activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._try("deactivate", self.deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._try("cleanup", self.cleanup)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._try("shutdown", lambda: self.shutdown(state.label))
