"""Single-stage 3D latent diffusion (SSDNeRF, Chen et al. 2023): codes, decoder and prior trained together."""
