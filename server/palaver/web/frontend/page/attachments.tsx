/** Files of a message or a reply: images are shown, others downloaded. */

import { type Attachment, isStoredFile } from "palaver-client";
import { createContext } from "preact";
import { useContext, useEffect, useState } from "preact/hooks";

import { palaver } from "./client";
import { save } from "./downloads";
import { attempt } from "./notice";
import { t } from "./strings";
import { formatSize } from "./uploads";

/** The thread whose members may read the files. */
export const ThreadContext = createContext("");

const SHOWN_IMAGE = /^image\/(png|jpeg|gif|webp|avif)$/;
const SHOWN_DATA = /^data:image\/(png|jpeg|gif|webp|avif);/i;
const MAX_SHOWN = 20_000_000; // bytes; a larger image is downloaded

export function Attachments({ files }: { files: Attachment[] }) {
  if (!files.length) return null;
  return (
    <ul class="attachments" aria-label={t.attachments}>
      {files.map((file) => (
        <li key={file.url}>{isStoredFile(file) ? <Stored file={file} /> : <Linked file={file} />}</li>
      ))}
    </ul>
  );
}

function Stored({ file }: { file: Attachment }) {
  const thread = useContext(ThreadContext);
  const isImage = SHOWN_IMAGE.test(file.media_type) && (file.size ?? 0) <= MAX_SHOWN;
  const download = () =>
    void attempt(async () => save(await palaver.value.readFile(file, thread), file.name));
  return (
    <button type="button" class={isImage ? "picture" : "chip"} title={t.files.download(file.name)} onClick={download}>
      {isImage ? <Picture file={file} thread={thread} /> : <span dir="auto">{file.name}</span>}
      {!isImage && file.size ? <small>{formatSize(file.size)}</small> : null}
    </button>
  );
}

/** An image of the server's: its address alone gives no access. */
function Picture({ file, thread }: { file: Attachment; thread: string }) {
  const [url, setUrl] = useState("");
  useEffect(() => {
    let made = "";
    let isMounted = true;
    palaver.value.readFile(file, thread).then(
      (content) => {
        if (!isMounted) return;
        made = URL.createObjectURL(content);
        setUrl(made);
      },
      () => {}, // its name stays
    );
    return () => {
      isMounted = false;
      if (made) URL.revokeObjectURL(made);
    };
  }, [file.url, thread]);
  // A page that shows the widget may allow no such images.
  return url ? <img src={url} alt={file.name} onError={() => setUrl("")} /> : <span class="chip" dir="auto">{file.name}</span>;
}

function Linked({ file: { name, url } }: { file: Attachment }) {
  if (SHOWN_DATA.test(url)) return <img src={url} alt={name} />;
  if (/^data:/i.test(url)) {
    // A data URL of text/html that opens in place could show anything; a download cannot.
    return <a class="chip" href={url} download={name} rel="noopener noreferrer" dir="auto">{name}</a>;
  }
  if (/^https?:/i.test(url)) {
    return <a class="chip" href={url} target="_blank" rel="noopener noreferrer" dir="auto">{name}</a>;
  }
  return <span class="chip" dir="auto">{name}</span>;
}
