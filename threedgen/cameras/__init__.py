"""Where renders are looked at from: orbits, clips of an orbit, the views of given pictures and films."""
