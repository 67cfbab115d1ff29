"""The pipeline: one entrypoint per DVC stage, and the rooms they share (tasks, methods, engine, report)."""

from stages import warm

warm.hand_over()
