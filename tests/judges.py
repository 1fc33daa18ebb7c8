"""Chat completions on loopback, by a judge whose verdicts can be read off the picture, with faults where wanted."""

from __future__ import annotations

import base64
import json
import math
import os
import random
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import numpy as np
import torch
from PIL import Image

FAULTS = (
    "429", "429 after", "500", "503", "reset", "silent", "dribble", "cut body", "cut JSON", "cut by length", "text",
    "true", "null", "NaN", "out of range", "two scores", "huge", "huge by its length", "html", "no choice",
)  # fmt: skip


def swatches(count: int, first: int = 1) -> torch.Tensor:
    """(count, 3, 8, 8) pictures, each of a colour of its own; none of them means a score of 0."""
    codes = torch.arange(first, first + count) * 97 % 65521
    colours = torch.stack([codes // 256, codes % 256, torch.full_like(codes, 7)], 1)
    return (colours / 255).float()[:, :, None, None].expand(-1, -1, 8, 8)


def meant(samples: torch.Tensor) -> torch.Tensor:
    """(N,) scores in [0, 1] that the judge means for swatches."""
    red, green = (samples[:, :2, 0, 0] * 255).round().double().unbind(1)
    return (red * 256 + green) / 65535


def faulty(share: float, seed: int = 0, faults=FAULTS):
    """So many requests go wrong, which of them and how following from the picture and the attempt alone."""

    def fault(picture, attempt):
        rng = random.Random(f"{seed} {picture} {attempt}")
        return rng.choice(faults) if rng.random() < share else None

    return fault


class FakeJudge:
    """A server while in its ``with`` block.

    Args:
        fault: (number of the picture, attempts with it before) -> name of a fault, or None.
        seconds: That an answer takes.
        usage: Tokens that it reports.
        logprobs: Whether it gives them when asked to.
    """

    def __init__(self, fault=lambda picture, attempt: None, *, seconds=0.0, usage=(1000, 10), logprobs=True):
        self.fault, self.seconds, self.usage, self.logprobs = fault, seconds, usage, logprobs
        self.bodies, self.headers, self.paths, self.times = [], [], [], []
        self.attempts, self.injected = Counter(), Counter()
        self.now = self.peak = self.written = 0
        self.lock, self.closing = threading.Lock(), threading.Event()
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                judge._serve(self)

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 256
            daemon_threads = True

            def handle_error(self, request, client_address):
                pass  # clients that hang up are what is tested

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def _serve(self, handler):
        start = time.monotonic()
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        score = self._score(body)
        picture = round(score * 65535)
        with self.lock:
            attempt = self.attempts[picture]
            self.attempts[picture] += 1
            self.bodies.append(body)
            self.headers.append(dict(handler.headers))
            self.paths.append(handler.path)
            self.times.append(start)
            self.now += 1
            self.peak = max(self.peak, self.now)
        fault = self.fault(picture, attempt)
        if self.seconds:
            self.closing.wait(self.seconds)
        with self.lock:
            self.now -= 1
            if fault is not None:
                self.injected[fault[0] if isinstance(fault, tuple) else fault] += 1
        if fault is None:
            self._send(handler, self._answer(body, score, picture))
        else:
            self._fail(handler, fault, body, score)

    def _score(self, body):
        urls = [part["image_url"]["url"] for part in body["messages"][1]["content"] if part["type"] == "image_url"]
        file = BytesIO(base64.b64decode(urls[0].partition(",")[2]))
        red, green, _ = (int(c) for c in np.asarray(Image.open(file))[0, 0])
        return (red * 256 + green) / 65535

    def _answer(self, body, score, picture):
        if body.get("logprobs"):
            return self.yes_no(score)
        said = json.dumps({"score": round(10 * score, 6)})
        forms = (said, f"```json\n{said}\n```", f"Here is my verdict:\n\n{said}\n\nIt is fair.", f" {said}\n")
        return self.says(forms[picture % len(forms)])

    def says(self, text, **choice):
        answer = {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop", **choice}]}
        if self.usage is not None:
            answer["usage"] = {"prompt_tokens": self.usage[0], "completion_tokens": self.usage[1]}
        return answer

    def yes_no(self, score):
        if not self.logprobs:
            return self.says("Yes." if score > 0.5 else "No.")
        # A tenth of the probability goes to other words.
        likely = {"Yes": 0.6 * score, " yes": 0.3 * score, "No": 0.9 * (1 - score), "Maybe": 0.1}
        top = [{"token": token, "logprob": math.log(max(p, 1e-9))} for token, p in likely.items()]
        return self.says("Yes", logprobs={"content": [{**top[0], "top_logprobs": top}]})

    def _send(self, handler, answer, status=200, headers=None):
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    def _fail(self, handler, fault, body, score):
        if isinstance(fault, tuple):  # status, body, headers
            self._send(handler, fault[1], fault[0], fault[2])
        elif fault in ("429", "500", "503"):
            self._send(handler, {"error": {"message": "later"}}, int(fault))
        elif fault == "429 after":
            self._send(handler, b"", 429, {"Retry-After": "0"})
        elif fault == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(handler.connection.detach())
        elif fault == "silent":
            self.closing.wait(20)
        elif fault == "dribble":
            handler.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
            for _ in range(100):
                self.closing.wait(0.03)
                handler.wfile.write(b"x")
        elif fault == "huge":
            handler.send_response(200)
            handler.end_headers()
            for _ in range(1000):
                handler.wfile.write(b" " * 2**16)
                self.written += 2**16
        elif fault == "huge by its length":
            self._send(handler, b" ", headers={"Content-Length": str(10**12)})
        elif fault == "html":
            self._send(handler, b"<html>Bad gateway</html>")
        elif fault == "cut body":
            data = json.dumps(self._answer(body, score, 0)).encode()
            self._send(handler, data[: len(data) // 2], headers={"Content-Length": str(len(data))})
        elif fault == "no choice":
            self._send(handler, {"choices": []})
        else:
            self._send(handler, self._nonsense(fault, score))

    def _nonsense(self, fault, score):
        if fault == "cut by length":
            return self.says(json.dumps({"score": 0}), finish_reason="length")
        text = {
            "cut JSON": f'{{"score": {10 * score:.1f}',
            "text": '{"score": "0"}',
            "true": '{"score": true}',
            "null": '{"score": null}',
            "NaN": '{"score": NaN}',
            "out of range": '{"score": 10.5}',
            "two scores": '{"score": 1} or rather {"score": 9}',
        }
        return self.says(text[fault])
