"""Guidances: losses on renders, from a frozen diffusion model or from given pictures."""
