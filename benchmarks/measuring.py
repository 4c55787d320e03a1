"""What the other scripts measure with."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


@contextmanager
def measured() -> Iterator[dict]:
    "Seconds that a `with` block takes, and how many MiB of its own memory the process uses at most; a mapped file isn't its own."
    process, done, peak, result = psutil.Process(), threading.Event(), [0], {}

    def watch():
        while not done.wait(0.02):
            memory = process.memory_info()
            peak[0] = max(peak[0], memory.rss - getattr(memory, "shared", 0))
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    try: yield result
    finally:
        result["seconds"] = round(time.perf_counter() - start, 3)
        done.set()
        watcher.join()
        result["memory_mb"] = round(peak[0] / 2**20)
