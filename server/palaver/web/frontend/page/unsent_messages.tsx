/** Messages that the server has not stored: they are being sent, or were refused. */

import { type Conversation, type UnsentMessage, canRetry } from "palaver-client";

import { Bubble } from "./bubble";
import { isOnline } from "./online";
import { useSignal } from "./signal";
import { t } from "./strings";

interface Properties {
  messages: UnsentMessage[];
  conversation: Conversation;
  onEdit: (text: string) => void;
}

export function UnsentMessages({ messages, conversation, onEdit }: Properties) {
  const hasNetwork = useSignal(isOnline);
  const edit = (message: UnsentMessage) => {
    conversation.discard(message.id);
    onEdit(message.text);
  };
  return (
    <div id="unsent">
      {messages.map((message) => (
        <article class="turn" key={message.id}>
          {message.attachments && (
            <ul class="attachments" aria-label={t.attachments}>
              {message.attachments.map(({ id, name }) => (
                <li key={id} class="chip" dir="auto">{name}</li>
              ))}
            </ul>
          )}
          {message.text && <Bubble text={message.text} isUnsent />}
          {message.problem ? (
            <p class="problem unsent-problem">
              <span dir="auto">{message.problem.message}</span>
              {canRetry(message.problem.code) && (
                <button type="button" onClick={() => conversation.retry(message.id)}>
                  {t.tryAgain}
                </button>
              )}
              <button type="button" onClick={() => edit(message)}>{t.edit}</button>
            </p>
          ) : (
            <p class="caption">{hasNetwork ? t.sending : t.sentLater}</p>
          )}
        </article>
      ))}
    </div>
  );
}
