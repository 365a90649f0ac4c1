"""Descriptions of the operations on channels, with an example of each."""

from palaver.openapi import Content, Operation, Parameter
from palaver.platforms.pairing import ApprovedPerson
from palaver.web.api_operations import query
from palaver.web.bodies import (
    NAME_SCHEMA,
    ApprovedPeopleResponse,
    ChannelsResponse,
    PairingCode,
    PairingRequestsResponse,
)

_APPROVED = {"tenant": "default", "person": "slack.T1.U1", "at": 1767225600.0}
_CHANNEL = Parameter(
    name="channel",
    place="path",
    description="The name of an enabled channel.",
    schema=NAME_SCHEMA,
    example="slack",
)
_PERSON = Parameter(
    name="person",
    place="path",
    description="The person's id.",
    schema=NAME_SCHEMA,
    example="slack.T1.U1",
)
_TENANT = query("tenant", "The person's tenant.", "default", **NAME_SCHEMA)

CHANNELS = Operation(
    summary="List the channels, and what is wrong with each on this server",
    responses={
        200: Content(
            type=ChannelsResponse,
            example={
                "channels": [
                    {"name": "openai_api", "problem": ""},
                    {"name": "slack", "problem": "channels.slack.token: env:SLACK is not set"},
                ]
            },
        )
    },
)
WAITING = Operation(
    summary="List the people who wait for approval",
    parameters=(_CHANNEL,),
    responses={
        200: Content(
            type=PairingRequestsResponse,
            example={"requests": [{"code": "K7QW3ZRA", **_APPROVED}]},
        )
    },
)
PEOPLE = Operation(
    summary="List the people who are approved, the newest first",
    parameters=(_CHANNEL,),
    responses={200: Content(type=ApprovedPeopleResponse, example={"people": [_APPROVED]})},
)
APPROVE = Operation(
    summary="Approve the person who has a code",
    parameters=(_CHANNEL,),
    body=Content(type=PairingCode, example={"code": "K7QW3ZRA"}),
    responses={200: Content(type=ApprovedPerson, example=_APPROVED)},
)
REVOKE = Operation(
    summary="Withdraw an approval",
    parameters=(_CHANNEL, _PERSON, _TENANT),
    responses={200: Content(type=ApprovedPerson, example=_APPROVED)},
)
