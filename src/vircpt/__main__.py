"""python -m vircpt"""

from vircpt.cli.entry import run

run()
