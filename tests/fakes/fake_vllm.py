"""vLLM's command line and HTTP surface without vLLM: `fake_vllm.py serve MODEL --port N …`.

A file `vllm.json` in the model's folder may say {"fail": "…"}: it logs that as vLLM does and ends. Answers
say what it was started with. A helper process stands for vLLM's engine core.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

VARIABLES = ("CUDA_VISIBLE_DEVICES", "VLLM_CPU_KVCACHE_SPACE")


class Health(web.RequestHandler):
    def get(self) -> None:
        self.finish("")


class Guarded(web.RequestHandler):
    def initialize(self, options: argparse.Namespace, helper: int) -> None:
        self.given, self.helper = options, helper

    def prepare(self) -> None:
        if self.request.headers.get("Authorization") != f"Bearer {os.environ['VLLM_API_KEY']}":
            self.set_status(401)
            self.finish({"error": "Unauthorized"})


class Models(Guarded):
    def get(self) -> None:
        name, window = self.given.served_model_name, self.given.max_model_len or 256
        self.finish({"object": "list", "data": [{"id": name, "object": "model", "max_model_len": window}]})


class Chat(Guarded):
    async def post(self) -> None:
        body = json.loads(self.request.body)
        if body["model"] != self.given.served_model_name:
            self.refuse(404, f"The model `{body['model']}` does not exist.")
        elif body.get("max_tokens", 0) > (self.given.max_model_len or 256):
            self.refuse(400, "This model's maximum context length is 256 tokens.")
        elif body.get("stream"):
            self.set_header("Content-Type", "text/event-stream")
            for piece in ("a", "b"):
                self.write(f"data: {json.dumps({'choices': [{'delta': {'content': piece}}]})}\n\n")
                await self.flush()
            self.finish("data: [DONE]\n\n")
        else:
            variables = {name: os.environ[name] for name in VARIABLES if name in os.environ}
            told = {"argv": sys.argv[1:], "body": body, "variables": variables, "helper": self.helper}
            self.finish({"choices": [{"message": {"content": json.dumps(told)}}]})

    def refuse(self, status: int, message: str) -> None:
        self.set_status(status)
        self.finish({"error": {"message": message, "type": "BadRequestError", "param": None, "code": status}})


async def serve(options: argparse.Namespace, helper: int) -> None:
    given = {"options": options, "helper": helper}
    routes = [("/health", Health), ("/v1/models", Models, given), ("/v1/chat/completions", Chat, given)]
    server = HTTPServer(web.Application(routes))
    server.add_sockets(bind_sockets(options.port, options.host))
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model", type=Path)
    for name in ("--host", "--served-model-name", "--dtype", "--distributed-executor-backend"):
        parser.add_argument(name)
    for name in ("--port", "--max-model-len", "--tensor-parallel-size", "--pipeline-parallel-size"):
        parser.add_argument(name, type=int)
    parser.add_argument("--gpu-memory-utilization", type=float)
    parser.add_argument("--enable-auto-tool-choice", action="store_true")
    options = parser.parse_args()
    script = options.model / "vllm.json"
    fail = json.loads(script.read_text())["fail"] if script.exists() else None
    print("Loading safetensors checkpoint shards:  50% Completed | 1/2", file=sys.stderr, flush=True)
    if fail is not None:
        print(f"(EngineCore pid=1) ERROR 11-24 ValueError: {fail}", file=sys.stderr, flush=True)
        sys.exit(1)
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    asyncio.run(serve(options, helper.pid))


if __name__ == "__main__":
    main()
