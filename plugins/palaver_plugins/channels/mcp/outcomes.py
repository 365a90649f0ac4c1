"""Outcomes: the result of a call, once there is one for its client."""

import msgspec

from palaver import ConversationService
from palaver_plugins.channels.mcp.calls import Call, CallFollower, Calls
from palaver_plugins.channels.mcp.catalog import Catalog
from palaver_plugins.channels.mcp.clients import Client
from palaver_plugins.channels.mcp.protocol import Json
from palaver_plugins.channels.mcp.questions import (
    DENY,
    METHOD,
    Answer,
    make_form,
    read_answer,
)
from palaver_plugins.channels.mcp.records import CallRecords
from palaver_plugins.channels.mcp.results import (
    make_declined_result,
    make_question_result,
    make_result,
)


class RequestState(msgspec.Struct, frozen=True, array_like=True):
    """What a client of the era without sessions brings back with an answer."""

    call: Call
    number: int


def question_key(number: int) -> str:
    """Return the name of a question in ``inputRequests``: each has its own in a call."""
    return f"question-{number}"


class Outcomes:
    """Finds the results of calls, and takes the answers to their questions."""

    def __init__(
        self,
        service: ConversationService,
        catalog: Catalog,
        calls: Calls,
        records: CallRecords,
    ) -> None:
        self._service = service
        self._catalog = catalog
        self._calls = calls
        self._records = records
        self._seals = service.seals("mcp request state")

    async def find(self, follower: CallFollower, client: Client) -> Json | None:
        """Return the result of a call for its client; None: it goes on, or the client is asked in
        the stream. Raises `NotFound`, `FilesUnavailable` and `RpcError`."""
        reply = follower.reply
        action = self._catalog.action(follower.call.action)
        if follower.is_finished:
            return await make_result(self._service, action, follower)
        if reply.outcome != "asked":
            return None
        if not client.elicits:
            return make_question_result(action, follower)
        declined = await self._records.find_declined(follower.call.message, follower.number)
        if declined:
            return make_declined_result(follower, declined)
        return self._ask(follower, client) if client.is_modern else None

    async def is_cancelled(self, follower: CallFollower) -> bool:
        """Return whether a call was stopped, or its question was left."""
        if follower.is_asking:
            found = await self._records.find_declined(follower.call.message, follower.number)
            return found == "cancel"
        return follower.is_finished and follower.reply.outcome == "stopped"

    def _ask(self, follower: CallFollower, client: Client) -> Json:
        """Return the result that asks the client to ask its person."""
        state = RequestState(follower.call, follower.number)
        return {
            "resultType": "input_required",
            "inputRequests": self.input_requests(follower, client),
            "requestState": self._seals.seal(state),
        }

    def input_requests(self, follower: CallFollower, client: Client) -> Json:
        """Return the question that waits, as a request to the client."""
        reply = follower.reply
        assert reply.question is not None
        form = make_form(reply.question, client.version, reply.visible_text)
        return {question_key(follower.number): {"method": METHOD, "params": form}}

    def read_state(self, state: object, client: Client, action: str) -> RequestState | None:
        """Return what a client brings back; None: it is not sealed here, or is another's."""
        found = self._seals.read(state, RequestState) if isinstance(state, str) else None
        if found is None or not found.call.is_of(client) or found.call.action != action:
            return None
        return found

    async def take(self, call: Call, number: int, responses: object) -> None:
        """Take the answer to a question from ``inputResponses``; others are ignored."""
        given = responses.get(question_key(number)) if isinstance(responses, dict) else None
        answer = read_answer(given)
        if answer is not None:
            await self.take_answer(call, number, answer)

    async def take_answer(self, call: Call, number: int, answer: Answer) -> None:
        """Store what a person did with a question. To decline the call of a tool is an answer."""
        if answer.action == "accept":
            await self._calls.answer(call, number, answer.text)
        elif answer.action == "decline" and (await self._calls.look(call)).approval:
            await self._calls.answer(call, number, DENY)
        else:
            await self._records.note_declined(call.message, number, answer.action)
