/** The settings of this browser. */

import { AccountSection } from "./account_section";
import { about } from "./client";
import { Dialog } from "./dialog";
import { isConnecting } from "./model_setup";
import { type Preferences, TEXT_SIZES, THEMES, preferences, setPreference } from "./preferences";
import { useSignal } from "./signal";
import { LANGUAGES, t } from "./strings";

export function SettingsDialog({ onClose, onData }: { onClose: () => void; onData: () => void }) {
  const { theme, textSize, language } = useSignal(preferences);
  const info = useSignal(about);
  const connect = () => {
    onClose();
    isConnecting.value = true;
  };
  return (
    <Dialog title={t.settings} onClose={onClose}>
      <Choice label={t.appearance} name="theme" value={theme} options={THEMES} names={t.theme} />
      <Choice label={t.textSize} name="textSize" value={textSize} options={TEXT_SIZES} names={t.textSizes} />
      <label class="setting">
        <span>{t.language}</span>
        <select value={language} onChange={(event) => setPreference("language", event.currentTarget.value)}>
          <option value="">{t.languageOfBrowser}</option>
          {Object.entries(LANGUAGES).map(([code, name]) => (
            <option key={code} value={code} lang={code}>
              {name}
            </option>
          ))}
        </select>
      </label>
      {info?.setup && (
        <fieldset class="setting">
          <legend>{t.connect.model}</legend>
          <p dir="auto">{info.model}</p>
          <button type="button" class="chip" onClick={connect}>{t.connect.title}</button>
        </fieldset>
      )}
      <AccountSection onData={onData} onClose={onClose} />
    </Dialog>
  );
}

interface ChoiceProperties<Name extends "theme" | "textSize"> {
  label: string;
  name: Name;
  value: Preferences[Name];
  options: readonly Preferences[Name][];
  names: Record<Preferences[Name], string>;
}

/** A few options side by side. */
function Choice<Name extends "theme" | "textSize">(props: ChoiceProperties<Name>) {
  return (
    <fieldset class="setting">
      <legend>{props.label}</legend>
      <div class="choice">
        {props.options.map((option) => (
          <label key={option}>
            <input
              type="radio"
              name={props.name}
              checked={option === props.value}
              onChange={() => setPreference(props.name, option)}
            />
            <span>{props.names[option]}</span>
          </label>
        ))}
      </div>
    </fieldset>
  );
}
