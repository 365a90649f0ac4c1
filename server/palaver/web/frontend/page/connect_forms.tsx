/** The forms of the dialog that connects another model: one for each way. */

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";

import { type Choice, type ModelServer, type ServedModel, type Setup, findServers, listModels } from "./model_setup";
import { problemText } from "./problem_text";
import { t } from "./strings";

interface Option {
  label: string;
  detail: string;
  choice: Choice;
}

/** The models that are on the server's machine already. */
export function FoundForm({ setup, onAddress }: { setup: Setup; onAddress: (url: string) => void }) {
  const [servers, setServers] = useState<ModelServer[] | null>(null);
  const [problem, setProblem] = useState("");
  const [chosen, setChosen] = useState(0);
  const look = () => {
    setServers(null);
    setProblem("");
    findServers().then(setServers, (error: unknown) => {
      setServers([]);
      setProblem(problemText(error));
    });
  };
  useEffect(look, []);
  if (!servers) return <p role="status">{t.connect.looking}</p>;
  const options = [...servers.flatMap(optionsOf), ...addedOptions(setup)];
  const guarded = servers.filter((server) => server.needs_key);
  const submit = () => options[chosen] && setup.start(options[chosen].choice);
  return (
    <SetupForm setup={setup} isReady={options.length > 0} onSubmit={submit}>
      {problem && <p class="problem" role="alert">{problem}</p>}
      {!options.length && !guarded.length && <p>{t.connect.nothing}</p>}
      <div class="found" role="radiogroup" aria-label={t.connect.models}>
        {options.map(({ label, detail }, index) => (
          <label key={`${label} ${detail}`}>
            <input type="radio" name="model" checked={index === chosen} onChange={() => setChosen(index)} />
            <strong dir="auto">{label}</strong>
            <span dir="auto">{detail}</span>
          </label>
        ))}
      </div>
      <div class="choice">
        {guarded.map(({ name, url }) => (
          <button type="button" class="chip" key={url} onClick={() => onAddress(url)}>
            {t.connect.needsKey(`${name} (${new URL(url).host})`)}
          </button>
        ))}
        <button type="button" class="chip" onClick={look}>{t.connect.lookAgain}</button>
      </div>
    </SetupForm>
  );
}

function optionsOf({ name, url, models }: ModelServer): Option[] {
  return models.map(({ id, size }) => ({
    label: id,
    detail: size ? `${name} · ${gigabytes(size)}` : name,
    choice: { kind: "server", url, model: id, key: "" },
  }));
}

function gigabytes(bytes: number): string {
  const format = new Intl.NumberFormat(document.documentElement.lang, { maximumFractionDigits: 1 });
  return `${format.format(bytes / 1e9)} GB`;
}

function addedOptions({ state }: Setup): Option[] {
  const others = state?.added.filter((name) => name !== state.model) ?? [];
  return others.map((name) => ({ label: name, detail: t.connect.added, choice: { kind: "added", name } }));
}

/** Address and key, then one of the models that are listed there. */
export function AddressForm({ setup, url: given }: { setup: Setup; url: string }) {
  const [url, setUrl] = useState(given);
  const [key, setKey] = useState("");
  const [model, setModel] = useState("");
  const [listed, setListed] = useState<ServedModel[] | null>(null);
  const [problem, setProblem] = useState("");
  const forget = () => {
    setListed(null);
    setModel("");
  };
  const submit = async () => {
    if (listed) return setup.start({ kind: "server", url, model, key });
    setProblem("");
    try {
      const found = await listModels(url, key);
      const first = found.models[0]?.id ?? "";
      setUrl(found.url);
      setListed(found.models);
      setModel(first);
      if (found.models.length === 1) setup.start({ kind: "server", url: found.url, model: first, key });
    } catch (error) {
      setProblem(problemText(error));
    }
  };
  return (
    <SetupForm setup={setup} label={listed ? t.connect.connect : t.connect.list} onSubmit={() => void submit()}>
      <Field label={t.connect.address} value={url} placeholder="http://127.0.0.1:8000/v1" onChange={(text) => (setUrl(text), forget())} />
      <Field label={t.connect.key} value={key} isSecret onChange={(text) => (setKey(text), forget())} />
      {listed?.length === 0 && <Field label={t.connect.modelName} value={model} onChange={setModel} />}
      {listed && listed.length > 0 && (
        <label class="field">
          <span>{t.connect.models}</span>
          <select value={model} onChange={(event) => setModel(event.currentTarget.value)}>
            {listed.map(({ id }) => (
              <option key={id} value={id}>{id}</option>
            ))}
          </select>
        </label>
      )}
      {problem && <p class="problem" role="alert" dir="auto">{problem}</p>}
    </SetupForm>
  );
}

export function HubForm({ setup }: { setup: Setup }) {
  const [repository, setRepository] = useState("");
  return (
    <SetupForm setup={setup} onSubmit={() => setup.start({ kind: "hub", repository: repository.trim() })}>
      <p>{t.connect.hubText}</p>
      <Field label={t.connect.repository} value={repository} placeholder="Qwen/Qwen3-0.6B" onChange={setRepository} />
    </SetupForm>
  );
}

export function PathForm({ setup }: { setup: Setup }) {
  const [path, setPath] = useState("");
  return (
    <SetupForm setup={setup} onSubmit={() => setup.start({ kind: "path", path: path.trim() })}>
      <p>{t.connect.pathText}</p>
      <Field label={t.connect.path} value={path} placeholder="/srv/models/my-model" onChange={setPath} />
    </SetupForm>
  );
}

interface FormProperties {
  setup: Setup;
  label?: string;
  /** There is something to connect. */
  isReady?: boolean;
  onSubmit: () => void;
  children: ComponentChildren;
}

function SetupForm({ setup, label = t.connect.connect, isReady = true, onSubmit, children }: FormProperties) {
  const submit = (event: Event) => {
    event.preventDefault();
    onSubmit();
  };
  return (
    <form onSubmit={submit}>
      <fieldset class="connect-form" disabled={setup.isRunning}>
        {children}
        {isReady && <button type="submit" class="primary-button">{label}</button>}
      </fieldset>
    </form>
  );
}

interface FieldProperties {
  label: string;
  value: string;
  isSecret?: boolean;
  placeholder?: string;
  onChange: (text: string) => void;
}

function Field({ label, value, isSecret = false, placeholder = "", onChange }: FieldProperties) {
  const common = {
    value,
    placeholder,
    autocomplete: "off",
    autocapitalize: "none",
    spellcheck: false,
    dir: "ltr",
    onInput: (event: Event & { currentTarget: HTMLInputElement }) => onChange(event.currentTarget.value),
  } as const;
  return (
    <label class="field">
      <span>{label}</span>
      {isSecret ? <input type="password" {...common} /> : <input required {...common} />}
    </label>
  );
}
