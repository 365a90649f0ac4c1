"""A server of the OpenAI API like `vllm serve`, on a unix socket, that can be killed.

Its reply depends on the prompt alone, so each character of it can be checked. It imports little,
because it is restarted after each kill.
"""

import asyncio
import json
import random
import sys
import zlib
from typing import Any

from aiohttp import web

KINDS = ("a poem", "a very long story", "news")
WORDS = "the rain falls\n on 漢字 and naïve 😀 cafés, every lamp keeps 一 little gold".split(" ")


def reply_to(prompt: str) -> str:
    """Return the text generated for a prompt."""
    rng = random.Random(prompt)
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(5, 80)))


def chosen_kind(prompt: str) -> str:
    """Return the choice among `KINDS` for a prompt."""
    return KINDS[zlib.crc32(prompt.encode()) % len(KINDS)]


def split_randomly(text: str, rng: random.Random) -> list[str]:
    """Split ``text`` at random characters."""
    cuts = sorted(rng.sample(range(1, max(len(text), 1)), k=max(len(text) - 1, 0) // 2))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]


Json = dict[str, Any]  # JSON values


async def models(request: web.Request) -> web.Response:
    card = {"id": "scripted", "owned_by": "vllm", "max_model_len": 100_000}
    return web.json_response({"object": "list", "data": [card]})


async def tokenize(request: web.Request) -> web.Response:
    body = await request.json()
    texts = [body.get("prompt", ""), *(message["content"] for message in body.get("messages", ()))]
    return web.json_response({"count": sum(len(text.split()) for text in texts)})


def missing_text(body: Json) -> str:
    """Return the reply, or the rest of it when the request has the beginning."""
    *_, prompt = [message["content"] for message in body["messages"] if message["role"] == "user"]
    if "structured_outputs" in body:
        return chosen_kind(prompt)
    partial = body["messages"][-1]["content"] if body.get("continue_final_message") else ""
    return reply_to(prompt).removeprefix(partial)


async def chat(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    rng = random.Random()
    for piece in split_randomly(missing_text(body), rng):
        await response.write(encode_chunk(piece, None))
        await asyncio.sleep(0.001)
    await response.write(encode_chunk("", "stop") + b"data: [DONE]\n\n")
    return response


def encode_chunk(text: str, finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def main(path: str) -> None:
    application = web.Application()
    application.router.add_get("/v1/models", models)
    application.router.add_post("/tokenize", tokenize)
    application.router.add_post("/v1/chat/completions", chat)
    web.run_app(application, path=path, print=None, access_log=None)


if __name__ == "__main__":
    main(sys.argv[1])
