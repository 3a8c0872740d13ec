"""From a prompt to what a prior is told."""
