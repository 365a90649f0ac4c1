"""Changes of messages that wait in `palaver.testing.ledger.MemoryLedger`."""

from palaver.messages import following_epoch
from palaver.testing.conversation_state import ConversationState, UnsettledTurn
from palaver.waiting import change_events, change_messages


def find_waiting(state: ConversationState, message: str) -> UnsettledTurn | None:
    """Return the turn of the message with that id, if it waits."""
    for turn in state.inbox:
        if turn is not state.running_turn and not turn.has_begun:
            if any(each.id == message for each in turn.messages):
                return turn
    return None


def change_waiting(
    state: ConversationState, turn: UnsettledTurn, message: str, text: str | None
) -> None:
    """Replace the text of a message of the turn; with None remove it."""
    turn.inbox_messages = list(change_messages(turn.inbox_messages, message, text))
    last = state.last_offset
    unsettled = {each.id for each in state.inbox}
    kept = [event for event in state.events if event.turn in unsettled]
    state.events = change_events(kept, turn.id, message, text)
    state.first_offset = last - len(state.events) + 1
    state.epoch = following_epoch(state.epoch)
    if not turn.inbox_messages:
        state.branches.forget(turn.id, state.order)
        state.inbox.remove(turn)
