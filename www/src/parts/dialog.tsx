import { signal, type Signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { texts } from "../texts";
import "./dialog.css";
import { Icon } from "./icons";
import { ErrorMessage } from "./notices";

export type DialogName = "models" | "settings" | "gallery" | "camera" | "scene";

/** The open dialog. */
export const opened: Signal<DialogName | undefined> = signal();

/** A modal dialog. The browser keeps the focus inside, closes it on Escape and restores the focus. */
export function Dialog({ name, title, children }: { name: DialogName; title: string; children: ComponentChildren }) {
  const dialog = useRef<HTMLDialogElement>(null);
  // At once: what a visitor types before an element of the dialog has the focus would be lost.
  useLayoutEffect(() => {
    dialog.current?.showModal();
  }, []);
  const close = () => (opened.value = undefined);
  return (
    <dialog
      ref={dialog}
      class={`dialog ${name}`}
      aria-labelledby={`${name}-title`}
      data-testid={`dialog-${name}`}
      onClose={close}
      onClick={(event) => event.target === dialog.current && dialog.current?.close()}
    >
      <header>
        <h2 id={`${name}-title`}>{title}</h2>
        <button type="button" class="plain" aria-label={texts.value.close} data-testid="close" onClick={() => dialog.current?.close()}>
          <Icon name="close" />
        </button>
      </header>
      <div class="dialog-body">
        <ErrorMessage />
        {children}
      </div>
    </dialog>
  );
}
