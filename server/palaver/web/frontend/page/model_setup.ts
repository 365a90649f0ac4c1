/** The connection of another model: what there is to choose, and how far it is. */

import { RequestError } from "palaver-client";
import { useEffect, useRef, useState } from "preact/hooks";

import { palaver } from "./client";
import { problemText } from "./problem_text";
import { loadServerInfo } from "./server";
import { Signal } from "./signal";
import { t } from "./strings";

export interface ServedModel {
  id: string;
  /** Bytes; null: unknown. */
  size: number | null;
}

export interface ModelServer {
  name: string;
  url: string;
  models: ServedModel[];
  needs_key: boolean;
}

export interface Progress {
  step: "looking" | "downloading" | "checking" | "done" | "restarting" | "failed";
  model: string;
  /** Bytes of a download. */
  done: number;
  total: number;
  problem: string;
}

export interface SetupState {
  /** Another one after the server has restarted. */
  instance: string;
  model: string;
  settings_file: string;
  /** Models on the server's machine. */
  added: string[];
  progress: Progress | null;
}

export type Choice =
  | { kind: "server"; url: string; model: string; key: string }
  | { kind: "hub"; repository: string }
  | { kind: "path"; path: string }
  | { kind: "added"; name: string };

export interface Setup {
  state: SetupState | null;
  isRunning: boolean;
  /** Why the last choice is not connected. */
  problem: string;
  /** The model that answers since the restart. */
  connected: string;
  start: (choice: Choice) => void;
  cancel: () => void;
}

const PATH = "/v1/setup";
const INTERVAL = 700; // ms between two looks at the progress
const MAX_RESTART = 90; // looks without an answer until the person is told

/** Whether the dialog is open. */
export const isConnecting = new Signal(false);

export async function findServers(): Promise<ModelServer[]> {
  return (await palaver.value.get<{ servers: ModelServer[] }>(`${PATH}/servers`)).servers;
}

/** Return the models of a server, and its base URL in full. */
export async function listModels(url: string, key: string): Promise<{ url: string; models: ServedModel[] }> {
  return palaver.value.request("POST", `${PATH}/models`, { url, key });
}

/** Follow the setup of the server as long as the component is shown; it goes on without it. */
export function useSetup(): Setup {
  const [state, setState] = useState<SetupState | null>(null);
  const [problem, setProblem] = useState("");
  const [connected, setConnected] = useState("");
  const isShown = useRef(true);
  const show = (next: SetupState) => {
    setState(next);
    setProblem(next.progress?.problem ?? "");
  };
  const follow = async ({ instance }: SetupState) => {
    for (let missed = 0; isShown.current; ) {
      await new Promise((resolve) => setTimeout(resolve, INTERVAL));
      const next = await readState();
      missed = next ? 0 : missed + 1;
      if (missed > MAX_RESTART) setProblem(t.connect.late);
      if (!next) continue;
      show(next);
      if (next.instance !== instance) {
        await loadServerInfo();
        return setConnected(next.model);
      }
      if (!isActive(next)) return;
    }
  };
  const attempt = async (work: () => Promise<void>) => {
    try {
      await work();
    } catch (error) {
      setProblem(problemText(error));
    }
  };
  const request = (method: string, choice?: Choice) =>
    void attempt(async () => {
      const next = await palaver.value.request<SetupState>(method, PATH, choice);
      show(next);
      if (method !== "DELETE" && isActive(next)) await follow(next);
    });
  useEffect(() => {
    request("GET");
    return () => void (isShown.current = false);
  }, []);
  return {
    state,
    isRunning: !connected && isActive(state),
    problem,
    connected,
    start: (choice) => {
      setProblem("");
      request("POST", choice);
    },
    cancel: () => request("DELETE"),
  };
}

/** Return the state; null while the server restarts. */
async function readState(): Promise<SetupState | null> {
  try {
    return await palaver.value.get<SetupState>(PATH);
  } catch (error) {
    if (error instanceof RequestError && error.status < 500) throw error;
    return null;
  }
}

function isActive(state: SetupState | null): boolean {
  return Boolean(state?.progress && state.progress.step !== "failed");
}
