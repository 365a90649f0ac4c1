"""A reply of ``palaver chat`` keeps texts and the calls of tools in their order."""

import pytest

from palaver.cli.reply import Reply


def begin_reply() -> Reply:
    reply = Reply()
    reply.show("[agent] ")
    reply.add("I look.")
    reply.begin_call("1", "[look: begins]")
    return reply


def test_text_that_overtakes_the_end_of_a_call_waits_for_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reply = begin_reply()
    reply.begin_call("2", "[count: begins]")
    reply.add("\n\nThere ")
    reply.end_call("1", "[look: done]")
    reply.add("it is.")
    reply.end_call("2", "[count: done]")
    reply.add(" Bye.")
    reply.end()
    calls = "[look: begins]\n[count: begins]\n[look: done]\n[count: done]\n"
    assert capsys.readouterr().out == f"[agent] I look.\n\n{calls}\n\nThere it is. Bye."


def test_the_end_of_a_reply_shows_text_whose_call_has_no_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reply = begin_reply()
    reply.add(" There.")
    assert "There" not in capsys.readouterr().out
    reply.end()
    assert capsys.readouterr().out == " There."


def test_only_a_reply_whose_last_line_is_a_note_ends_with_one() -> None:
    reply = begin_reply()
    assert reply.ends_with_note
    reply.end_call("1", "[look: done]")
    reply.add("Bye.")
    assert not reply.ends_with_note


def test_text_that_overtakes_the_call_that_a_person_has_denied_waits_for_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reply = Reply()
    reply.expect_call()
    reply.show("[agent] ")
    reply.add("Then not.")
    reply.end_call("1", "[pay: not approved]")
    reply.end()
    assert capsys.readouterr().out == "[agent] \n[pay: not approved]\nThen not."
