"""YAML files become checked, typed recipes."""
