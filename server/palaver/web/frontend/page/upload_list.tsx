/** The files of a message that is being written: pictures of images, progress, problems. */

import { Icon } from "./icon";
import { t } from "./strings";
import { type Upload, type Uploads, formatSize } from "./uploads";

export function UploadList({ uploads }: { uploads: Uploads }) {
  if (!uploads.items.length) return null;
  return (
    <ul id="uploads" aria-label={t.files.ofMessage}>
      {uploads.items.map((upload) => (
        <li key={upload.key} class={upload.problem ? "refused" : undefined}>
          {upload.preview && <img src={upload.preview} alt="" />}
          <span class="upload-about">
            <span class="upload-name" dir="auto">{upload.file?.name ?? upload.content.name}</span>
            <State upload={upload} />
          </span>
          {upload.problem && (
            <button
              type="button"
              class="icon-button"
              aria-label={`${t.tryAgain}: ${upload.content.name}`}
              title={t.tryAgain}
              onClick={() => uploads.retry(upload)}
            >
              <Icon name="again" />
            </button>
          )}
          <button
            type="button"
            class="icon-button"
            aria-label={t.files.remove(upload.content.name)}
            title={t.files.remove(upload.content.name)}
            onClick={() => uploads.remove(upload)}
          >
            <Icon name="close" />
          </button>
        </li>
      ))}
    </ul>
  );
}

function State({ upload }: { upload: Upload }) {
  if (upload.problem) return <small role="alert" dir="auto">{upload.problem}</small>;
  if (upload.file) return <small>{formatSize(upload.file.size)}</small>;
  return <progress max={1} value={upload.progress} aria-label={upload.content.name} />;
}
