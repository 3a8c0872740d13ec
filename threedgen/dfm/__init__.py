"""Diffusion with forward models (Tewari et al. 2023, arXiv:2306.11719): a diffusion model of scenes that nobody
sees, learnt from pictures of them alone."""
