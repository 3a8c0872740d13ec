"""The loop of score distillation, the contracts of what it calls, and the events that it emits."""
