"""The OpenAPI 3.1 document of a running application, made from its routes.

The schemas come from the structs that the handlers read and write, so the two cannot disagree.
"""

import http
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from palaver.authentication import RouteAccess, route_access
from palaver.openapi import EVENT_STREAM, Content, Operation, Parameter, operation_of
from palaver.web.bodies import ErrorResponse

Json = dict[str, Any]  # JSON values

ERRORS_OF_ALL = frozenset({400, 403, 408, 415, 431, 500, 503})
"""Statuses of errors that any route may have, before its handler runs."""
ERRORS_OF_KEYS = frozenset({401, 413, 429})
"""Statuses that routes have which require a right."""
_SEGMENT = {"type": "string", "pattern": r"^[^{}/\u0000-\u001f\u007f]+$"}
"""JSON schema of a part of a path, as far as it is known."""
_REF = "#/components/schemas/{name}"


class _Route(NamedTuple):
    method: str
    path: str
    access: RouteAccess
    operation: Operation


def make_document(application: web.Application, version: str, *, has_keys: bool) -> Json:
    """Return the description of every route of the application.

    ``has_keys``: a key is needed where a route requires a right.
    """
    routes = [_find_route(route) for route in application.router.routes()]
    schemas = _Schemas(_types(routes))
    paths: Json = {}
    for route in routes:
        operation = _describe(route, schemas, has_keys=has_keys)
        paths.setdefault(route.path, {})[route.method] = operation
    errors = sorted({(_error_of(route), status) for route in routes for status in _errors(route)},
                    key=lambda pair: (pair[0].__name__, pair[1]))  # fmt: skip
    components: Json = {
        "schemas": schemas.components,
        "responses": {
            _error_name(error, status): _describe_error(error, status) for error, status in errors
        },
    }
    if has_keys:
        components["securitySchemes"] = {
            "key": {
                "type": "http",
                "scheme": "bearer",
                "description": "Each operation requires a right of the key: its `x-right`.",
            }
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Palaver",
            "version": version,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": components,
    }


def _find_route(route: web.AbstractRoute) -> _Route:
    access = route_access(route.handler)
    assert access is not None  # `check_routes` has refused it
    assert route.resource is not None
    operation = operation_of(route.handler) or _undescribed(route.handler)
    return _Route(route.method.lower(), route.resource.canonical, access, operation)


def _undescribed(handler: object) -> Operation:
    """Return what is known of a handler that describes nothing."""
    summary = (inspect.getdoc(handler) or "An operation of a plugin").partition("\n")[0]
    return Operation(summary=summary, responses={})


# Operations


def _describe(route: _Route, schemas: "_Schemas", *, has_keys: bool) -> Json:
    operation, right = route.operation, route.access.right
    responses: Json = {
        str(status): _describe_content(content, schemas, is_empty=route.method == "head")
        for status, content in operation.responses.items()
    }
    for status in sorted(_errors(route)):
        name = _error_name(_error_of(route), status)
        responses[str(status)] = {"$ref": f"#/components/responses/{name}"}
    if not operation.responses:  # nobody has told
        responses["default"] = {"description": "Described by the plugin"}
    described: Json = {
        "summary": operation.summary,
        "operationId": _operation_id(route),
        "parameters": [_describe_parameter(each) for each in _parameters(route)],
        "responses": responses,
        "security": [{"key": []}] if has_keys and right is not None else [],
    }
    if right is not None:
        described["x-right"] = right
    if operation.body is not None:
        body = {"required": operation.is_body_required}
        described["requestBody"] = body | _describe_media(operation.body, schemas)
    return described


def _operation_id(route: _Route) -> str:
    return "_".join(re.findall(r"\w+", f"{route.method} {route.path}"))


def _parameters(route: _Route) -> Iterable[Parameter]:
    """Yield the parameters of an operation, those in the path that nobody describes included."""
    yield from route.operation.parameters
    known = {each.name for each in route.operation.parameters if each.place == "path"}
    for name in re.findall(r"{(\w+)", route.path):
        if name not in known:
            yield Parameter(
                name=name, place="path", description=name, schema=_SEGMENT, example=name
            )


def _describe_parameter(parameter: Parameter) -> Json:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.description,
        "schema": parameter.schema,
        "example": parameter.example,
    }


def _describe_content(content: Content, schemas: "_Schemas", *, is_empty: bool) -> Json:
    if content.type is None or is_empty:
        return {"description": content.description}
    return {"description": content.description} | _describe_media(content, schemas)


def _describe_media(content: Content, schemas: "_Schemas") -> Json:
    schema = schemas.of(content.type)
    if content.media_type == EVENT_STREAM:
        schema = _describe_event(schema, is_json=content.type is not str)
    described = {content.media_type: {"schema": schema, "example": content.example}}
    if content.alternative is not None:
        described |= _describe_media(content.alternative, schemas)["content"]
    return {"content": described}


def _describe_event(schema: Json, *, is_json: bool) -> Json:
    """Return the schema of one event of a stream."""
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
    if not is_json:
        data = schema
    return {
        "type": "object",
        "required": ["data"],
        "properties": {"id": {"type": "string"}, "data": data},
    }


# Errors


def _errors(route: _Route) -> set[int]:
    found = ERRORS_OF_ALL | set(route.operation.errors)
    if route.access.right is not None:
        found |= ERRORS_OF_KEYS
    if "{" in route.path:
        found |= {404}
    return set(found - route.operation.responses.keys())


def _error_of(route: _Route) -> Any:  # Any: a type
    return route.operation.error or ErrorResponse


def _error_name(error: Any, status: int) -> str:
    return f"{error.__name__}{status}"


def _describe_error(error: Any, status: int) -> Json:
    schema = {"$ref": _REF.format(name=error.__name__)}
    described: Json = {
        "description": http.HTTPStatus(status).phrase,
        "content": {"application/json": {"schema": schema}},
    }
    if status in (429, 503):
        described["headers"] = _RETRY
    return described


_RETRY: Json = {
    name: {"description": what, "schema": {"type": "integer", "minimum": 1}}
    for name, what in {
        "Retry-After": "Seconds before the next attempt",
        "retry-after-ms": "The same in milliseconds",
    }.items()
}


# Schemas


def _types(routes: Iterable[_Route]) -> list[Any]:
    """Return the types of all bodies, each once."""
    found: dict[Any, None] = {}
    for route in routes:
        contents = [route.operation.body, *route.operation.responses.values()]
        for content in contents:
            while content is not None:
                if not isinstance(content.type, Mapping | None):
                    found[content.type] = None
                content = content.alternative
        found[_error_of(route)] = None
    return list(found)


class _Schemas:
    """The JSON schemas of types: a reference for each, and the components that they refer to."""

    def __init__(self, types: list[Any]) -> None:
        schemas, self.components = msgspec.json.schema_components(types, ref_template=_REF)
        self._by_type = dict(zip(types, schemas, strict=True))

    def of(self, type: Any) -> Json:  # Any: a type or a schema
        return dict(type) if isinstance(type, Mapping) else self._by_type[type]
