"""Files: attachments of replies, uploaded to Slack and shared in the thread."""

import dataclasses
import logging

import aiohttp

from palaver.platforms import OutgoingPost, Unreachable
from palaver_plugins.channels.slack.addresses import Thread
from palaver_plugins.channels.slack.api import Installations, RefusedCall, call, translated
from palaver_plugins.channels.slack.lookup import Lookup
from palaver_plugins.channels.slack.pace import Pace
from palaver_plugins.channels.slack.posting import Posting
from palaver_plugins.channels.slack.slack_markdown import SlackDialect

NOTE = "file"
"""Of the note with Slack's id of the file, which is kept before the file is shared."""
REFUSED = "refused"
"""The note of a file that Slack does not take; a text stands in its place."""
UPLOAD_SECONDS = 300.0

log = logging.getLogger(__name__)


class Files:
    """Shares files. A file that Slack refuses is named in a text: the next replies are posted."""

    def __init__(
        self, installations: Installations, posting: Posting, lookup: Lookup, pace: Pace
    ) -> None:
        self._installations = installations
        self._posting = posting
        self._lookup = lookup
        self._pace = pace

    async def share(self, thread: Thread, post: OutgoingPost) -> str:
        """Upload a file and share it, or say that it cannot be. Return an id of what was posted."""
        assert post.attachment is not None
        name = post.attachment.name
        if post.notes.get(NOTE) != REFUSED:
            try:
                return await self._share(thread, post, name)
            except RefusedCall as error:
                log.warning("a file is not shared in %s: %s", post.conversation, error)
            post.notes[NOTE] = REFUSED
            await post.save_notes()
        text = f"*{SlackDialect().text(name)}* cannot be shared here."
        return await self._posting.create(thread, dataclasses.replace(post, text=text), ())

    async def _share(self, thread: Thread, post: OutgoingPost, name: str) -> str:
        """Return the id of the file; Slack posts it when it has looked at it."""
        client = await self._installations.client(thread.team)
        upload = await call(
            client.files_getUploadURLExternal(filename=name, length=len(post.content))
        )
        await _upload(str(upload["upload_url"]), post.content)
        file = post.notes[NOTE] = str(upload["file_id"])
        await post.save_notes()
        await self._pace.posts.wait(f"{thread.team}.{thread.channel}")
        await call(
            client.files_completeUploadExternal(
                files=[{"id": file, "title": name}],
                channel_id=thread.channel,
                thread_ts=thread.root or None,
            )
        )
        return file

    async def find(self, thread: Thread, post: OutgoingPost) -> str:
        """Return an id of what was posted of the file, empty when nothing was."""
        file = post.notes.get(NOTE, "")
        if not file:
            return ""
        if file == REFUSED:
            return await self._lookup.find(thread, post)
        client = await self._installations.client(thread.team)
        try:
            await call(client.files_info(file=file))
        except RefusedCall as error:
            if error.code == "file_not_found":  # known to Slack only once it is shared
                return ""
            return file if await self._lookup.find_file(thread, post, file) else ""
        return file


async def _upload(url: str, content: bytes) -> None:
    timeout = aiohttp.ClientTimeout(UPLOAD_SECONDS)
    with translated():
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async with session.post(url, data=content, allow_redirects=False) as response:
                if response.status != 200:
                    raise Unreachable(f"Slack answers {response.status} to an upload")
