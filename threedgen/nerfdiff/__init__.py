"""NerfDiff (Gu et al. 2023): a single-image NeRF, a denoiser of its renders, and NeRF-guided distillation."""
