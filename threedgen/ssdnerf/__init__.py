"""SSDNeRF (Chen, Gu et al. 2023): a diffusion over codes of objects that is trained together with their decoder."""
