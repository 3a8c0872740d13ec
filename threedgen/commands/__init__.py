"""The command line: argparse lives here and nowhere else, one file a command."""
