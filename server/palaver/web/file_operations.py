"""Descriptions of the operations on files, with an example of each."""

from palaver.messages import StoredFile
from palaver.openapi import Content, Operation, Parameter
from palaver.web.api_operations import PERSON, query
from palaver.web.bodies import NAME_SCHEMA, DeletedFileResponse, FilesResponse

_ID = "5f3c9a" + 58 * "0"
_EXAMPLE = {
    "id": _ID,
    "name": "report.pdf",
    "media_type": "application/pdf",
    "size": 48_213,
    "sha256": 64 * "a",
    "created_at": 1767225600.0,
    "expires_at": 1767312000.0,
}
_FILE = Parameter(
    name="file",
    place="path",
    description="The file's id.",
    schema={"type": "string", "pattern": "^[0-9a-f]{64}$"},
    example=_ID,
)
_THREAD = query(
    "thread",
    "A conversation in which the file was sent: its members may read it.",
    "my-thread",
    **NAME_SCHEMA,
)
_BYTES = {"type": "string", "format": "binary"}

UPLOAD = Operation(
    summary="Upload a file; the body is its content",
    parameters=(
        query("name", "The file's name; it is cleaned.", "report.pdf", type="string"),
        PERSON,
    ),
    body=Content(type=_BYTES, example="…", media_type="application/octet-stream"),
    responses={201: Content(description="Stored", type=StoredFile, example=_EXAMPLE)},
    errors=(409,),
)
FILES = Operation(
    summary="List one's own files",
    parameters=(PERSON,),
    responses={200: Content(type=FilesResponse, example={"files": [_EXAMPLE]})},
)
DOWNLOAD = Operation(
    summary="Read a file of one's own, or of a conversation",
    parameters=(
        _FILE,
        PERSON,
        _THREAD,
        Parameter(
            name="If-None-Match",
            place="header",
            description="The `ETag` of the copy that the client has.",
            schema={"type": "string"},
            example=f'"{64 * "a"}"',
        ),
    ),
    responses={
        200: Content(type=_BYTES, example="…", media_type="*/*"),
        304: Content(description="The client's copy is still the right one"),
    },
)
DELETE = Operation(
    summary="Delete a file of one's own; messages with it stay",
    parameters=(_FILE, PERSON),
    responses={200: Content(type=DeletedFileResponse, example={"id": _ID})},
)
