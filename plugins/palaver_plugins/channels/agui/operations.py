"""Descriptions of the operations of AG-UI, for ``/openapi.json``."""

import msgspec

from palaver import EVENT_STREAM, Content, Operation, StopState
from palaver_plugins.channels.agui.run_input import RunInput, StopInput
from palaver_plugins.channels.parameters import PERSON


class Stopped(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What became of a stop. ``messageId`` is the id of the reply; empty when there is none."""

    state: StopState
    message_id: str


_ID = "5d1e3a7c9b2f4e60a1b2c3d4e5f60718"

RUN = Operation(
    summary="Run the server's skills for a client of AG-UI 1.0",
    parameters=(PERSON,),
    body=Content(
        type=RunInput,
        example={
            "threadId": "my-thread",
            "runId": "run-1",
            "messages": [{"id": "m-1", "role": "user", "content": "Hello"}],
        },
    ),
    responses={
        200: Content(
            description="The events of the run",
            type=str,
            example={"data": '{"type":"RUN_STARTED","threadId":"my-thread","runId":"run-1"}'},
            media_type=EVENT_STREAM,
        )
    },
    errors=(404, 409, 413, 429),
)
STOP = Operation(
    summary="Stop a run of AG-UI",
    parameters=(PERSON,),
    body=Content(type=StopInput, example={"threadId": "my-thread"}),
    responses={200: Content(type=Stopped, example={"state": "stopping", "messageId": _ID})},
)
