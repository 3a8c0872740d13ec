"""The recipes of `threedgen train ssdnerf`."""

from pathlib import Path

FOLDER = Path(__file__).parent
