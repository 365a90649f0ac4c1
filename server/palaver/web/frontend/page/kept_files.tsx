/** The person's files on the server, each with a button that deletes it. */

import type { StoredFile } from "palaver-client";
import { useEffect, useState } from "preact/hooks";

import { palaver } from "./client";
import { t } from "./strings";

interface Properties {
  /** Runs a request, and shows its problem. */
  attempt: (work: () => Promise<void>) => Promise<void>;
  onDeleted: () => void;
}

export function KeptFiles({ attempt, onDeleted }: Properties) {
  const [files, setFiles] = useState<StoredFile[]>([]);
  useEffect(() => void attempt(async () => setFiles(await palaver.value.files())), []);
  const remove = (id: string) =>
    void attempt(async () => {
      await palaver.value.deleteFile(id);
      setFiles((known) => known.filter((file) => file.id !== id));
      onDeleted();
    });
  return (
    <details class="kept-files">
      <summary>{t.data.showFiles}</summary>
      <ul>
        {files.map(({ id, name, size }) => (
          <li key={id}>
            <span dir="auto">{name}</span>
            <span class="size">{formatSize(size)}</span>
            <button type="button" class="chip" aria-label={t.data.deleteFile(name)} onClick={() => remove(id)}>
              {t.deleteConversation}
            </button>
          </li>
        ))}
      </ul>
    </details>
  );
}

const UNITS = ["byte", "kilobyte", "megabyte", "gigabyte"] as const;

/** Return a number of bytes as people read it. */
function formatSize(bytes: number): string {
  const power = Math.min(UNITS.length - 1, Math.floor(Math.log10(Math.max(1, bytes)) / 3));
  const unit = UNITS[power];
  const format = new Intl.NumberFormat(document.documentElement.lang, {
    style: "unit",
    unit: unit ?? "byte",
    unitDisplay: "short",
    maximumFractionDigits: 1,
  });
  return format.format(bytes / 1000 ** power);
}
