"""Interactions as requests of Discord, signed with Ed25519 by the application's key."""

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from palaver import InvalidInput, Unauthenticated
from palaver_plugins.channels.discord.interactions import (
    Interaction,
    InteractionAnswer,
    Payload,
    read_payload,
)

PATH = "/discord/interactions"
PING = 1
PONG = {"type": 1}

_decode = msgspec.json.Decoder(Payload).decode


class InteractionsEndpoint:
    """Answers each request as ``begin`` says, and calls ``handle`` once Discord has the answer."""

    def __init__(
        self,
        public_key: str,
        begin: Callable[[Interaction], Awaitable[InteractionAnswer]],
        handle: Callable[[Interaction, InteractionAnswer], None],
    ) -> None:
        self._key = VerifyKey(bytes.fromhex(public_key))
        self._begin = begin
        self._handle = handle

    async def respond(self, request: web.Request) -> web.StreamResponse:
        """Respond to a request. Raises `Unauthenticated` for a bad signature, as Discord tests."""
        body = await request.read()
        self._verify(request, body)
        payload, interaction = _read(body)
        if payload.type == PING:
            return web.json_response(PONG)
        if interaction is None:
            raise InvalidInput("the type of the interaction is unknown")
        answer = await self._begin(interaction)
        response = web.json_response(answer.deferral)
        await response.prepare(request)
        await response.write_eof()
        self._handle(interaction, answer)  # only now may its token be used
        return response

    def _verify(self, request: web.Request, body: bytes) -> None:
        try:
            signature = bytes.fromhex(request.headers.get("X-Signature-Ed25519", ""))
            timestamp = request.headers.get("X-Signature-Timestamp", "").encode()
            self._key.verify(timestamp + body, signature)
        except (BadSignatureError, ValueError) as error:
            raise Unauthenticated("the request is not signed with the public key") from error


def _read(body: bytes) -> tuple[Payload, Interaction | None]:
    try:
        payload = _decode(body)
        return payload, read_payload(payload)
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidInput("the interaction is malformed") from error
