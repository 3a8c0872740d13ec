"""What listens to a run: progress bar, metrics file, previews, checkpoints, watchdog. The loop knows none of them."""
