"""NerfDiff (Gu et al. 2023): a single-image NeRF, a denoiser that sees through it, and NeRF-guided distillation."""
