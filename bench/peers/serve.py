# The peer's end of the pipe: one line of JSON each way. First a line with the version (or what is missing); then, per
# request, either new work is made ready or the present work is done a number of times and timed by this clock.

import gc
import json
import os
import sys
import time


# Where tensors are made: the device of the benchmark.
DEVICE = os.environ.get("WHETSTONE_PEER_DEVICE", "cpu")


def say(message):
    print(json.dumps(message), flush=True)


def load_torch():
    """The torch module; ends the program with a line about what is missing when it is not there."""
    try:
        import torch
    except ImportError:
        say({"missing": "torch"})
        sys.exit(0)
    if DEVICE != "cpu" and not torch.cuda.is_available():
        say({"missing": "torch with CUDA"})
        sys.exit(0)
    torch.set_default_device(DEVICE)
    return torch


def synchronize(torch):
    """Waits for what a GPU still has to do; on the CPU a call returns when its work is done."""
    if DEVICE != "cpu":
        torch.cuda.synchronize()


def serve(torch, prepare, version=None):
    """Answers requests until the input ends. prepare(job) gives (run, facts), or None for work that it does not know."""
    say({"version": version or torch.__version__})
    run = None
    for line in sys.stdin:
        message = json.loads(line)
        if "run" in message:
            synchronize(torch)
            start = time.perf_counter()
            for _ in range(message["run"]):
                run()
            synchronize(torch)
            say({"seconds": (time.perf_counter() - start) / message["run"]})
            continue
        run = None
        gc.collect()
        if DEVICE != "cpu":
            torch.cuda.empty_cache()
        torch.set_num_threads(message["threads"])
        prepared = prepare(message)
        if prepared is None:
            say({"unsupported": True})
        else:
            run, facts = prepared
            say(facts)
