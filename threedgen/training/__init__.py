"""Training of the small priors that ship."""
