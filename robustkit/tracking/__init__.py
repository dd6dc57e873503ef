"""Experiment trackers: what a training, an evaluation or an audit tells MLflow, W&B or TensorBoard.

A tracker holds copies. Results are on disk before it is told of them, and whatever goes wrong with
it is a warning: nothing waits for it, and nothing is lost with it.
"""

from robustkit.tracking.run import Tracker, TrackingRun, parse_tracker

__all__ = ["Tracker", "TrackingRun", "parse_tracker"]
