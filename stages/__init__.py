"""The pipeline: one entrypoint per DVC stage, and the rooms they share (tasks, methods, engine, report)."""

from stages.runtime import process, warm

process.starters()
warm.hand_over()
