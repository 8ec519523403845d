"""`python -m samovar_server.downloader.tied MODULE ARGS…`: as `python -m MODULE ARGS…`, tied to its parent.

Standard input is a pipe that the parent only holds open; its end means that the parent is gone, killed
perhaps, and this process ends too instead of downloading for nobody.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
