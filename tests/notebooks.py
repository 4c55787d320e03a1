"""Run notebooks, each in a fork of this process, which has imported what takes long to import.

Reads a notebook's path from each line of standard input, and answers with a line of JSON: whether every cell ran and
every assertion held, and what was printed. This is what `nbdev_test` does, five seconds faster for each notebook."""

import json
import os
import sys
import tempfile
from pathlib import Path

import transfer_nbs.all  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import nbdev.showdoc  # noqa: F401
from nbdev.config import get_config
from nbdev.test import test_nb

if __name__ == "__main__":
    flags = get_config().tst_flags.split()
    for line in sys.stdin:
        with tempfile.TemporaryFile("w+") as said:
            if not (child := os.fork()):
                for stream in (1, 2): os.dup2(said.fileno(), stream)
                passed, _ = test_nb(Path(line.strip()), skip_flags=flags, basepath=get_config().config_path)
                sys.exit(not passed)
            _, status = os.waitpid(child, 0)
            said.seek(0)
            print(json.dumps([status == 0, said.read()]), flush=True)
