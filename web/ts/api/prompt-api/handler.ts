/** An attribute such as `onload`: a listener that can be replaced. */
export class EventHandler {
  readonly #target: EventTarget;
  readonly #type: string;
  #value: ((event: Event) => unknown) | null = null;
  #listens = false;

  constructor(target: EventTarget, type: string) {
    this.#target = target;
    this.#type = type;
  }

  get value(): ((event: Event) => unknown) | null {
    return this.#value;
  }

  /** Sets the handler. A value that is not a function removes it. */
  set value(value: unknown) {
    this.#value = typeof value === "function" ? (value as (event: Event) => unknown) : null;
    if (!this.#value || this.#listens) return;
    this.#listens = true;
    this.#target.addEventListener(this.#type, (event) => void this.#value?.call(this.#target, event));
  }
}
