"""Feed-forward reconstruction: views of an object, clean or noisy, become 3D Gaussians in one pass of a network."""
