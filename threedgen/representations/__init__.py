"""What is optimised: parameters that become a renderable primitive."""
