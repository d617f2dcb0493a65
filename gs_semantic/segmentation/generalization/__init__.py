"""Methods that learn from many labelled scenes and label scenes that they have never seen (docs/generalization.md)."""
