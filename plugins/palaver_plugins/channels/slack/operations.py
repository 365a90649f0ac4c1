"""Descriptions of the channel's routes, for ``/openapi.json``."""

from palaver import Content, Operation, Parameter

_PAGE = Content(type={"type": "string"}, example="<html>…</html>", media_type="text/html")


def _query(name: str, description: str, example: str) -> Parameter:
    return Parameter(
        name=name,
        place="query",
        description=description,
        schema={"type": "string"},
        example=example,
    )


EVENTS = Operation(
    summary="Take a signed request of Slack: an event, a command or a pressed button",
    body=Content(
        type={"type": "object"},
        example={"type": "url_verification", "challenge": "3eZbrw1aBm2rZgRNFdxV"},
    ),
    responses={200: Content(description="It is stored, or nothing is to be done")},
    errors=(400, 401, 413, 503),
)
INSTALL = Operation(
    summary="Add the Slack app to a workspace",
    parameters=(_query("team", "The workspace to begin with.", "T0123456789"),),
    responses={302: Content(description="Slack's page of consent")},
    errors=(503,),
)
REDIRECT = Operation(
    summary="Complete the installation of the Slack app: Slack sends the browser here",
    parameters=(
        _query("code", "What Slack gives for a token.", "1234.5678.abcd"),
        _query("state", "What `/slack/install` gave.", "1767225600-0-0"),
        _query("error", "Why there is no code.", "access_denied"),
    ),
    responses={200: _PAGE},
    errors=(400, 401, 503),
)
