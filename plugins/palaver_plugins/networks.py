"""Networks in settings, such as ``127.0.0.0/8``."""

import ipaddress
from typing import Annotated

import pydantic


def _check(networks: tuple[str, ...]) -> tuple[str, ...]:
    for network in networks:
        ipaddress.ip_network(network, strict=False)
    return networks


Networks = Annotated[tuple[str, ...], pydantic.AfterValidator(_check)]
