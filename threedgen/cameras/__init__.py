"""The samplers of training views: orbits, clips, and the views of given pictures and films."""
