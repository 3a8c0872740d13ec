"""The loop of score distillation and what it calls and tells."""
