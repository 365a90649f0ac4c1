"""A small fake of Telegram's Bot API: long polling, messages, buttons, files."""

import asyncio
import html
import itertools
import re
from collections.abc import Awaitable, Callable
from typing import Any, Self

from aiohttp import web

from palaver.testing.channels import Fault, ShownMessage

Json = dict[str, Any]
Handler = Callable[..., Awaitable[web.Response]]
TOKEN = "123:of-the-bot"
_TAG = re.compile("</?(?:b|i|s|a|code|pre)(?: [^<>]*)?>")


class FakeTelegram:
    """Telegram with one bot. ``chats`` has the messages of each chat, by their ids."""

    def __init__(self) -> None:
        self.chats: dict[str, dict[int, Json]] = {}
        self.files: dict[str, bytes] = {}
        self.fault: Fault = "down"
        self.failing_calls = 0
        self.queries_are_old = False
        self.url = ""
        self._updates: list[Json] = []
        self._arrived = asyncio.Event()
        self._pollers = 0
        self._ids = itertools.count(1)
        application = web.Application()
        application.router.add_post("/bot{token}/{method}", self._call)
        application.router.add_get("/file/bot{token}/{path}", self._download)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    # People

    def deliver(self, update: Json) -> None:
        self._updates.append({"update_id": next(self._ids), **update})
        self._arrived.set()

    def write(self, chat: Json, person: Json, text: str, file: tuple[str, bytes] | None) -> Json:
        message = {"message_id": next(self._ids), "chat": chat, "from": person}
        if file is None:
            message["text"] = text
        else:
            name, content = file
            self.files[name] = content
            about = {"file_id": name, "file_name": name, "file_size": len(content)}
            message |= {"caption": text, "document": about}
        self.deliver({"message": message})
        return message

    def press(self, chat: str, person: Json, label: str) -> None:
        for message in reversed(self.chats[chat].values()):
            for row in message.get("reply_markup", {}).get("inline_keyboard", []):
                if row[0]["text"] == label:
                    query = {"id": "1", "from": person, "data": row[0]["callback_data"]}
                    about = {"chat": {"id": int(chat), "type": "group"}}
                    self.deliver({"callback_query": {**query, "message": about}})
                    return
        raise LookupError(f"no message has a button {label!r}")

    def shown(self, chat: str) -> list[ShownMessage]:
        return [
            ShownMessage(
                text=html.unescape(_TAG.sub("", message.get("text", ""))),
                buttons=tuple(
                    button["text"]
                    for row in message.get("reply_markup", {}).get("inline_keyboard", [])
                    for button in row
                ),
                files=(message["file"],) if "file" in message else (),
            )
            for message in self.chats.get(chat, {}).values()
        ]

    # The bot

    async def _call(self, request: web.Request) -> web.Response:
        if request.match_info["token"] != TOKEN:
            return _error(401, "Unauthorized")
        method = request.match_info["method"]
        if request.content_type == "application/json":
            fields = await request.json()
        else:
            form = await request.post()
            file = form["document"]
            assert isinstance(file, web.FileField)
            fields = {"chat_id": form["chat_id"], "file": file.filename}
        handler: Handler = getattr(self, f"_{method}")
        if method not in ("sendMessage", "sendDocument") or not self.failing_calls:
            return await handler(**fields)
        self.failing_calls -= 1
        if self.fault == "lost":
            await handler(**fields)
        if self.fault in ("lost", "down"):
            assert request.transport is not None
            request.transport.close()
        if self.fault == "limited":
            return _error(429, "Too Many Requests", parameters={"retry_after": 0.01})
        return _error(403, "Forbidden: bot was kicked from the group chat")

    async def _getMe(self) -> web.Response:
        return _result({"id": 123, "is_bot": True})

    async def _getUpdates(self, offset: int, **wait: float) -> web.Response:
        if self._pollers:
            return _error(409, "Conflict: terminated by other getUpdates request")
        self._pollers += 1
        try:
            self._updates = [each for each in self._updates if each["update_id"] >= offset]
            if not self._updates:
                self._arrived.clear()
                await asyncio.wait_for(self._arrived.wait(), wait["timeout"])
        except TimeoutError:
            pass
        finally:
            self._pollers -= 1
        return _result(self._updates)

    async def _sendMessage(self, chat_id: str, text: str, **more: Any) -> web.Response:
        if not 1 <= len(text.encode("utf-16-le")) // 2 <= 4096:
            return _error(400, "Bad Request: message is too long")
        return self._add(chat_id, {"text": text, **more})

    async def _sendDocument(self, chat_id: str, file: str) -> web.Response:
        return self._add(chat_id, {"file": file})

    def _add(self, chat: str, message: Json) -> web.Response:
        id = next(self._ids)
        self.chats.setdefault(str(chat), {})[id] = message
        return _result({"message_id": id})

    async def _editMessageText(
        self, chat_id: str, message_id: int, text: str, **more: Any
    ) -> web.Response:
        messages = self.chats.get(chat_id, {})
        if message_id not in messages:
            return _error(400, "Bad Request: message to edit not found")
        message = {"text": text, **more}
        if messages[message_id] == message:
            return _error(400, "Bad Request: message is not modified")
        messages[message_id] = message
        return _result({"message_id": message_id})

    async def _deleteMessage(self, chat_id: str, message_id: int) -> web.Response:
        if self.chats.get(chat_id, {}).pop(message_id, None) is None:
            return _error(400, "Bad Request: message to delete not found")
        return _result(True)

    async def _sendChatAction(self, chat_id: str, action: str) -> web.Response:
        return _result(True)

    async def _answerCallbackQuery(self, callback_query_id: str) -> web.Response:
        if self.queries_are_old:
            return _error(400, "Bad Request: query is too old and response timeout expired")
        return _result(True)

    async def _getFile(self, file_id: str) -> web.Response:
        return _result({"file_path": file_id})

    async def _download(self, request: web.Request) -> web.Response:
        return web.Response(body=self.files[request.match_info["path"]])


def _result(result: object) -> web.Response:
    return web.json_response({"ok": True, "result": result})


def _error(code: int, description: str, **more: object) -> web.Response:
    body = {"ok": False, "error_code": code, "description": description, **more}
    return web.json_response(body, status=code)
