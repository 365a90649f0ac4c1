/** The server, as the components know it: the page and the widget tell which one it is. */

import { type Identity, Palaver, type ServerInfo, type SkillInfo } from "palaver-client";

import { Signal } from "./signal";

export const palaver = new Signal(new Palaver({ url: location.origin }));
export const skills = new Signal<SkillInfo[]>([]);
export const about = new Signal<ServerInfo | null>(null);
/** Who the server takes this browser for; null while it is not known. */
export const me = new Signal<Identity | null>(null);

export function hasKey(): boolean {
  return Boolean(palaver.value.options.token);
}
