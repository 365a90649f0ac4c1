"""The object of a response, without its output."""

import json
from typing import Any

from palaver import Usage
from palaver_plugins.channels.openai_api.response_ids import ResponseId

Json = dict[str, Any]  # JSON values


def response_object(id: ResponseId, note: str, created_at: float) -> Json:
    """Return the object of a response that has not begun. ``note`` is what was kept of its
    request."""
    kept: Json = json.loads(note) if note else {}
    text = kept.get("text") or {}
    conversation = kept.get("conversation")
    return {
        "id": str(id),
        "object": "response",
        "created_at": int(created_at),
        "status": "queued" if kept.get("background") else "in_progress",
        "background": bool(kept.get("background")),
        "error": None,
        "incomplete_details": None,
        "instructions": kept.get("instructions"),
        "max_output_tokens": kept.get("max_output_tokens"),
        "model": kept.get("model", ""),
        "output": [],
        "parallel_tool_calls": kept.get("parallel_tool_calls", True),
        "previous_response_id": kept.get("previous_response_id"),
        "conversation": {"id": conversation} if conversation else None,
        "reasoning": {"effort": None, "summary": None},
        "store": kept.get("store", True),
        "temperature": kept.get("temperature", 1.0),
        "text": {**text, "format": _format(text.get("format"))},
        "tool_choice": kept.get("tool_choice", "auto"),
        "tools": [_tool(tool) for tool in kept.get("tools", ())],
        "top_logprobs": kept.get("top_logprobs", 0),
        "top_p": kept.get("top_p", 1.0),
        "truncation": "auto",
        "usage": None,
        "metadata": kept.get("metadata", {}),
    }


def _format(asked: Json | None) -> Json:
    return asked or {"type": "text"}


def _tool(tool: Json) -> Json:
    if tool.get("type") != "function":
        return tool
    return {"parameters": None, "strict": False, **tool}


def usage_object(usage: Usage) -> Json:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
