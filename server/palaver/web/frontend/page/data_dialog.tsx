/** What the server keeps about the person: numbers, download, erasure with a receipt. */

import { type DataSummary, type Erasure, newId } from "palaver-client";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import { me, palaver } from "./client";
import { conversations } from "./conversations";
import { formatTime } from "./dates";
import { Dialog } from "./dialog";
import { save } from "./downloads";
import { forgetUnsent } from "./drafts";
import { KeptFiles } from "./kept_files";
import { show } from "./location";
import { problemText } from "./problem_text";
import { useSignal } from "./signal";
import { t } from "./strings";
import { removeWorker } from "./worker";

const EXPORT_NAME = "palaver-export.json";

export function DataDialog({ onClose }: { onClose: () => void }) {
  const rights = useSignal(me)?.rights ?? [];
  const [receipt, setReceipt] = useState<Erasure | null>(null);
  const [problem, setProblem] = useState("");
  const [summary, setSummary] = useState<DataSummary | null>(null);
  const attempt = async (work: () => Promise<void>) => {
    setProblem("");
    try {
      await work();
    } catch (error) {
      setProblem(problemText(error));
    }
  };
  useEffect(() => void attempt(async () => setSummary(await palaver.value.summarizeData())), []);
  const download = () => void attempt(async () => save(await palaver.value.exportData(), EXPORT_NAME));
  const erase = () =>
    void attempt(async () => {
      setReceipt(await palaver.value.eraseData());
      forgetUnsent();
      void removeWorker();
      conversations.clear();
      conversations.tellOthers();
      show(newId());
    });
  return (
    <Dialog title={receipt ? t.data.erased : t.data.title} onClose={onClose}>
      {problem && <p class="problem" role="alert" dir="auto">{problem}</p>}
      {receipt && <Receipt receipt={receipt} />}
      {!receipt && summary && <Summary summary={summary} />}
      {!receipt && summary && summary.files > 0 && (
        <KeptFiles
          attempt={attempt}
          onDeleted={() => setSummary((known) => known && { ...known, files: known.files - 1 })}
        />
      )}
      {!receipt && summary && (
        <button type="button" class="primary-button" onClick={download}>{t.data.download}</button>
      )}
      {!receipt && rights.includes("erase") && !isShared(me.value) && <EraseForm onErase={erase} />}
    </Dialog>
  );
}

function isShared(identity: typeof me.value): boolean {
  return identity?.is_shared ?? true;
}

function Summary({ summary }: { summary: DataSummary }) {
  const { conversations: threads, messages, waiting, replies, titles, feedback, memories, files } = summary;
  return (
    <>
      <p>{t.data.text}</p>
      <Numbers
        rows={[
          [t.data.conversations, threads],
          [t.data.messages, messages],
          ...(waiting ? [[t.data.waiting, waiting] satisfies Row] : []),
          [t.data.replies, replies],
          [t.data.titles, titles],
          [t.data.feedback, feedback],
          [t.data.memories, memories],
          [t.data.files, files],
        ]}
      />
      <p>{t.data.local}</p>
    </>
  );
}

function Receipt({ receipt }: { receipt: Erasure }) {
  const place = useRef<HTMLDivElement>(null);
  useEffect(() => place.current?.focus(), []); // the form that had the focus is gone
  return (
    <div ref={place} tabIndex={-1} class="receipt">
      <p>{t.data.receipt(formatTime(receipt.at))}</p>
      <Numbers
        rows={[
          [t.data.conversations, receipt.conversations],
          [t.data.messages, receipt.messages],
          [t.data.events, receipt.events],
          [t.data.memories, receipt.memories],
          [t.data.files, receipt.files],
        ]}
      />
    </div>
  );
}

type Row = [name: string, number: number];

function Numbers({ rows }: { rows: Row[] }) {
  const format = new Intl.NumberFormat(document.documentElement.lang);
  return (
    <dl class="numbers">
      {rows.map(([name, number]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{format.format(number)}</dd>
        </div>
      ))}
    </dl>
  );
}

/** A button, then a field for a word that nobody writes by accident. */
function EraseForm({ onErase }: { onErase: () => void }) {
  const [isOpen, setOpen] = useState(false);
  const [text, setText] = useState("");
  const field = useRef<HTMLInputElement>(null);
  useLayoutEffect(() => field.current?.focus(), [isOpen]);
  if (!isOpen) {
    return <button type="button" class="danger" onClick={() => setOpen(true)}>{t.data.erase}</button>;
  }
  const isConfirmed = text.trim().toLocaleLowerCase() === t.data.eraseWord;
  const submit = (event: Event) => {
    event.preventDefault();
    if (isConfirmed) onErase();
  };
  return (
    <form class="erase-form" onSubmit={submit}>
      <p id="erase-text">{t.data.eraseText}</p>
      <label for="erase-word">{t.data.confirm(t.data.eraseWord)}</label>
      <input
        id="erase-word"
        ref={field}
        value={text}
        autocomplete="off"
        spellcheck={false}
        aria-describedby="erase-text"
        onInput={(event) => setText(event.currentTarget.value)}
      />
      <button type="submit" class="danger" aria-disabled={!isConfirmed}>{t.data.eraseNow}</button>
    </form>
  );
}
