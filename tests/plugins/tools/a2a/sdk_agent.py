"""A real A2A agent, made with the server classes of the official SDK, for tests.

The first word of a message says what it does. It counts what it runs in the file that ``EFFECTS``
names, one line for each.
"""

import asyncio
import os
import sys

import uvicorn
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import (
    create_agent_card_routes,
    create_jsonrpc_routes,
    create_rest_routes,
)
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import a2a_pb2 as pb
from starlette.applications import Starlette


def note(text: str) -> None:
    with open(os.environ["EFFECTS"], "a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def text_part(text: str) -> pb.Part:
    return pb.Part(text=text)


class Executor(AgentExecutor):
    """Does what a message says."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        text = context.get_user_input()
        command, _, rest = text.partition(" ")
        note(command)
        if command == "message":
            await event_queue.enqueue_event(
                pb.Message(message_id="a-1", role=pb.ROLE_AGENT, parts=[text_part(f"said {rest}")])
            )
            return
        assert context.task_id is not None
        assert context.context_id is not None
        if context.current_task is None:
            await event_queue.enqueue_event(
                pb.Task(
                    id=context.task_id,
                    context_id=context.context_id,
                    status=pb.TaskStatus(state=pb.TASK_STATE_SUBMITTED),
                )
            )
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        await updater.start_work()
        if command == "wait":
            await asyncio.sleep(float(rest))
        if command == "ask":
            question = updater.new_agent_message([text_part("Which city?")])
            await updater.requires_input(question)
            return
        if command == "fail":
            await updater.failed(updater.new_agent_message([text_part("I am broken.")]))
            return
        await updater.add_artifact([text_part(f"{command} {rest}".strip())], name="answer")
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        note("cancelled")
        assert context.task_id is not None
        assert context.context_id is not None
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


def make_application(port: int, binding: str) -> Starlette:
    card = pb.AgentCard(
        name="friendly",
        description="Does what it is told.",
        version="1.0",
        supported_interfaces=[
            pb.AgentInterface(
                url=f"http://127.0.0.1:{port}/", protocol_binding=binding, protocol_version="1.0"
            )
        ],
        capabilities=pb.AgentCapabilities(streaming=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[pb.AgentSkill(id="obey", name="Obey", description="Obeys.", tags=["a"])],
    )
    handler = DefaultRequestHandler(Executor(), InMemoryTaskStore(), card)
    rest, json_rpc = create_rest_routes(handler), create_jsonrpc_routes(handler, "/")
    routes = json_rpc if binding == "JSONRPC" else rest
    return Starlette(routes=[*create_agent_card_routes(card), *routes])


if __name__ == "__main__":
    port = int(sys.argv[1])
    uvicorn.run(make_application(port, sys.argv[2]), host="127.0.0.1", port=port, log_level="error")
