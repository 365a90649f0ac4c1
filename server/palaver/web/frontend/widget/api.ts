/** `window.palaver`: what the scripts of a page can do with the widget. */

import type { Identity } from "./identity";
import type { Session } from "./session";

export interface PalaverApi {
  open(): void;
  close(): void;
  toggle(): void;
  /** Send a message, as if the visitor had written it. */
  send(text: string): void;
  /** Tell who the visitor is: a JWT of your backend, or a function that gets one; null: nobody known. */
  setIdentity(identity: Identity | null): void;
  newConversation(): void;
  /** Remove the widget from the page. */
  destroy(): void;
  /** Call a method by its name: `["send", "Hello"]`. Before the script has loaded, `palaver` is an array. */
  push(...calls: Call[]): void;
}

type Method = Exclude<keyof PalaverApi, "push">;
type Call = [method: Method, ...values: unknown[]];

declare global {
  interface Window {
    palaver?: PalaverApi | Call[];
  }
}

export function makeApi(session: Session, destroy: () => void): PalaverApi {
  const api: PalaverApi = {
    open: () => session.open(),
    close: () => session.close(),
    toggle: () => (session.isOpen.value ? session.close() : session.open()),
    send: (text) => void session.send(String(text)),
    setIdentity: (identity) => session.setIdentity(identity),
    newConversation: () => session.newConversation(),
    destroy,
    push(...calls) {
      for (const [method, ...values] of calls) call(api, method, values);
    },
  };
  return api;
}

function call(api: PalaverApi, name: string, values: unknown[]): void {
  const method: unknown = name === "push" ? undefined : (api as unknown as Record<string, unknown>)[name];
  if (typeof method !== "function") throw new TypeError(`palaver: there is no method ${JSON.stringify(name)}`);
  method(...values);
}
