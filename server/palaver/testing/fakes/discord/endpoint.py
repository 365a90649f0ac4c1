"""Delivery of interactions by signed HTTP requests, in place of the gateway."""

import json
from typing import Any, Literal

import aiohttp

from palaver.testing.fakes.discord.errors import Refusal
from palaver.testing.fakes.discord.forms import UnknownFields
from palaver.testing.fakes.discord.interaction import PING, DiscordInteraction
from palaver.testing.fakes.discord.interactions import Interactions
from palaver.testing.fakes.discord.objects import JSON
from palaver.testing.fakes.discord.state import DiscordState

Signature = Literal["valid", "wrong", "malformed", "missing"]
PONG = {"type": 1}


class EndpointRefused(Exception):
    """The endpoint does not answer as Discord demands before it accepts its URL."""


class Endpoint:
    """The bot's interactions endpoint. Needs PyNaCl, which is imported with the first signature."""

    def __init__(
        self, state: DiscordState, interactions: Interactions, violations: list[str]
    ) -> None:
        self._state = state
        self._interactions = interactions
        self._violations = violations
        self._key: Any = None  # a nacl.signing.SigningKey

    @property
    def public_key(self) -> str:
        """Return the key of the application, by which the endpoint verifies requests."""
        if self._key is None:
            from nacl.signing import SigningKey

            self._key = SigningKey.generate()
            self._state.application.public_key = self._key.verify_key.encode().hex()
        return self._state.application.public_key

    def sign(self, timestamp: str, body: bytes) -> str:
        signature: bytes = self._key.sign(timestamp.encode() + body).signature
        return signature.hex()

    async def set_url(self, url: str) -> None:
        """Save the URL, once it answers a PING and refuses a wrong signature."""
        status, answer = await self.ping(url)
        if status != 200 or answer != PONG:
            raise EndpointRefused(f"{url} answered a PING with {status} {answer!r}")
        for signature in ("wrong", "malformed", "missing"):
            status, _ = await self.ping(url, signature=signature)
            if status != 401:
                raise EndpointRefused(f"{url} answered a {signature} signature with {status}")
        self._state.application.interactions_url = url

    async def ping(self, url: str, *, signature: Signature = "valid") -> tuple[int, Any]:
        """Send a PING; return status and answer."""
        application_id = str(self._state.application.id)
        return await self.post(
            url, {"type": PING, "application_id": application_id, "version": 1}, signature
        )

    async def post(
        self, url: str, payload: JSON, signature: Signature = "valid"
    ) -> tuple[int, Any]:
        """Send a payload with a signature; return status and answer."""
        body = json.dumps(payload, ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json", **self._headers(body, signature)}
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=body, headers=headers) as response,
        ):
            text = await response.text()
            is_json = response.content_type == "application/json" and text
            return response.status, json.loads(text) if is_json else text

    def _headers(self, body: bytes, signature: Signature) -> dict[str, str]:
        if signature == "missing":
            return {}
        timestamp = str(int(self._state.clock.now()))
        assert self.public_key
        signed = {
            "valid": self.sign(timestamp, body),
            "wrong": self.sign(timestamp, body + b" "),
            "malformed": "not hexadecimal",
        }
        return {"X-Signature-Timestamp": timestamp, "X-Signature-Ed25519": signed[signature]}

    async def deliver(self, interaction: DiscordInteraction) -> None:
        """Send an interaction. The answer is in the response, or came by a request meanwhile (202).

        Without an answer in time, the person sees that the interaction failed.
        """
        url = self._state.application.interactions_url
        try:
            async with self._state.clock.timeout(self._state.limits.interaction_seconds):
                status, answer = await self.post(url, self._interactions.payload(interaction))
        except (TimeoutError, aiohttp.ClientError):
            return
        if status == 200:
            self._take(interaction, answer)

    def _take(self, interaction: DiscordInteraction, answer: Any) -> None:
        try:
            self._interactions.take_http_answer(interaction, answer)
        except Refusal as refusal:
            self._violations.append(f"answer to an interaction: {refusal} {refusal.errors or ''}")
        except UnknownFields as unknown:
            self._violations.append(f"answer to an interaction: unknown fields {unknown}")
