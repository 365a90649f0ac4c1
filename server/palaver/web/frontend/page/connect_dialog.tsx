/** Connects another model: one that is found on the server's machine, or any other. */

import { useEffect, useRef, useState } from "preact/hooks";

import { AddressForm, FoundForm, HubForm, PathForm } from "./connect_forms";
import { Dialog } from "./dialog";
import { type Progress, type Setup, useSetup } from "./model_setup";
import { t } from "./strings";

const WAYS = ["found", "address", "hub", "path"] as const;
type Way = (typeof WAYS)[number];

export function ConnectDialog({ onClose }: { onClose: () => void }) {
  const setup = useSetup();
  const [way, setWay] = useState<Way>("found");
  const [url, setUrl] = useState("");
  const { state, isRunning, problem, connected } = setup;
  if (connected) return <Connected model={connected} onClose={onClose} />;
  const useAddress = (address: string) => {
    setUrl(address);
    setWay("address");
  };
  return (
    <Dialog title={t.connect.title} onClose={onClose}>
      <fieldset class="setting" disabled={isRunning}>
        <legend>{t.connect.where}</legend>
        <div class="choice">
          {WAYS.map((each) => (
            <label key={each}>
              <input type="radio" name="way" checked={each === way} onChange={() => setWay(each)} />
              <span>{t.connect.ways[each]}</span>
            </label>
          ))}
        </div>
      </fieldset>
      {way === "found" && <FoundForm setup={setup} onAddress={useAddress} />}
      {way === "address" && <AddressForm key={url} setup={setup} url={url} />}
      {way === "hub" && <HubForm setup={setup} />}
      {way === "path" && <PathForm setup={setup} />}
      {isRunning && state?.progress && <Running progress={state.progress} onCancel={setup.cancel} />}
      <p class="problem" role="alert" dir="auto" hidden={!problem}>{problem}</p>
      {state && <p class="dialog-note" dir="auto">{t.connect.note(state.settings_file)}</p>}
    </Dialog>
  );
}

function Running({ progress, onCancel }: { progress: Progress; onCancel: Setup["cancel"] }) {
  const button = useRef<HTMLButtonElement>(null);
  useEffect(() => button.current?.focus(), []); // the button that began it is disabled
  const { step, model, done, total } = progress;
  const isRestart = step === "done" || step === "restarting";
  return (
    <div class="connecting">
      <p role="status" dir="auto">{isRestart ? t.connect.restarting : t.connect.steps[step](model)}</p>
      <progress aria-label={t.connect.title} max={total || 1} {...(total > 0 ? { value: done } : {})} />
      {total > 0 && <p>{t.connect.bytes(megabytes(done), megabytes(total))}</p>}
      {!isRestart && (
        <button type="button" class="chip" ref={button} onClick={onCancel}>{t.cancel}</button>
      )}
    </div>
  );
}

function megabytes(bytes: number): string {
  return new Intl.NumberFormat(document.documentElement.lang, { maximumFractionDigits: 0 }).format(bytes / 1e6);
}

function Connected({ model, onClose }: { model: string; onClose: () => void }) {
  const button = useRef<HTMLButtonElement>(null);
  useEffect(() => button.current?.focus(), []);
  const begin = () => {
    onClose();
    requestAnimationFrame(() => document.getElementById("text")?.focus()); // the dialog takes the focus back
  };
  return (
    <Dialog title={t.connect.connectedTitle} onClose={begin}>
      <p role="status" dir="auto">{t.connect.connected(model)}</p>
      <button type="button" class="primary-button" ref={button} onClick={begin}>{t.connect.begin}</button>
    </Dialog>
  );
}
