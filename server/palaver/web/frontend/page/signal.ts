/** Signal: a value that components read and are rendered again for. */

import { useEffect, useState } from "preact/hooks";

export class Signal<Value> {
  readonly #listeners = new Set<() => void>();
  #value: Value;

  constructor(value: Value) {
    this.#value = value;
  }

  get value(): Value {
    return this.#value;
  }

  set value(value: Value) {
    this.#value = value;
    for (const listener of this.#listeners) listener();
  }

  /** Call `listener` after each change; return a function that ends it. */
  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }
}

/** Return the signal's value; the component is rendered again when it changes. */
export function useSignal<Value>(signal: Signal<Value>): Value {
  const [, setVersion] = useState(0);
  const { value } = signal;
  useEffect(() => {
    const update = () => setVersion((version) => version + 1);
    if (signal.value !== value) update(); // it has changed since the first rendering
    return signal.subscribe(update);
  }, [signal]);
  return value;
}
