"""Conditions of a prior: prompts, view-dependent texts, cameras and pictures."""
