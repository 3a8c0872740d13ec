"""Recipes: YAML files and settings of the command line become checked components with typed settings."""
