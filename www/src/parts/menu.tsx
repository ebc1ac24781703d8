/** A button that opens a list of further buttons above it. */

import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { Icon, type IconName } from "./icons";
import "./menu.css";

interface MenuProps {
  /** For tests. */
  name: string;
  label: string;
  icon: IconName;
  /** True if the list is aligned with the button's right side. */
  end?: boolean;
  children: ComponentChildren;
}

export function Menu({ name, label, icon, end, children }: MenuProps) {
  const menu = useRef<HTMLDetailsElement>(null);
  useEffect(() => {
    const listening = new AbortController();
    const leave = ({ target }: Event) => {
      if (menu.current && !menu.current.contains(target as Node)) menu.current.open = false;
    };
    for (const kind of ["pointerdown", "focusin"]) document.addEventListener(kind, leave, { signal: listening.signal });
    return () => listening.abort();
  }, []);
  const close = () => {
    menu.current!.querySelector("summary")!.focus();
    menu.current!.open = false;
  };
  const key = (event: KeyboardEvent) => {
    const { open } = menu.current!;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!open || (step === undefined && event.key !== "Escape")) return;
    event.preventDefault();
    event.stopPropagation();
    if (step === undefined) return close();
    const stops = [...menu.current!.querySelectorAll<HTMLElement>("summary, button:enabled")];
    const at = stops.findIndex((stop) => stop === document.activeElement);
    stops[(at + step + stops.length) % stops.length]?.focus();
  };
  return (
    <details
      ref={menu}
      class={end ? "menu end" : "menu"}
      onKeyDown={key}
      // Before the item acts: a dialog returns the focus to where it was.
      onClickCapture={({ target }) => (target as Element).closest(".menu-items button") && close()}
    >
      <summary class="button quiet" data-testid={`menu-${name}`}>
        <Icon name={icon} /> {label}
      </summary>
      <div class="menu-items">{children}</div>
    </details>
  );
}

interface ItemProps {
  /** For tests. */
  id: string;
  icon?: IconName;
  lang?: string;
  disabled?: boolean;
  onClick: () => void;
  children: ComponentChildren;
}

export function Item({ id, icon, children, ...button }: ItemProps) {
  return (
    <button type="button" data-testid={id} {...button}>
      {icon && <Icon name={icon} />} {children}
    </button>
  );
}
