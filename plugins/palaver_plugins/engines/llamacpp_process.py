"""Program of the process of engine ``llamacpp``: llama.cpp's HTTP server on a unix socket.

`palaver_plugins.engines.llamacpp_server` runs this file. Its argument is a JSON object with the
parameters of llama.cpp. It prints ``ready`` when the model is loaded, and runs until its standard
input ends, which is when the server has ended, in whatever way.
"""

import json
import os
import sys
import time
from typing import Any

import xllamacpp

LOG_SECONDS = 0.5
"""Seconds for the end of the log when a model cannot be loaded."""


def main() -> None:
    parameters = xllamacpp.CommonParams()
    for name, value in json.loads(sys.argv[1]).items():
        set_parameter(parameters, name, value)
    try:
        server = xllamacpp.Server(parameters)
    except RuntimeError:  # the log says why; a thread of llama.cpp writes it, and does not end it
        time.sleep(LOG_SECONDS)
        sys.exit(1)
    print("ready", server.listening_address, flush=True)  # noqa: T201  its standard output is read
    sys.stdin.read()
    os._exit(0)  # the threads of llama.cpp do not end by themselves


def set_parameter(target: Any, name: str, value: Any) -> None:  # Any: the package has no types
    """Set an attribute; a dot in the name leads into one."""
    outer, dot, inner = name.partition(".")
    if dot:
        set_parameter(getattr(target, outer), inner, value)
    else:
        setattr(target, name, value)


if __name__ == "__main__":
    main()
