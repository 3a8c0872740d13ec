"""What listens to a run: progress bar, metrics, previews, checkpoints, watchdog. The loop knows none."""
