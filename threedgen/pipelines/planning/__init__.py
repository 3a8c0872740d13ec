"""What a command would do and take, said before it is run."""
