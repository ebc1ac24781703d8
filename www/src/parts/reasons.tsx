import type { CheckReason } from "qwen-vl-web";
import { explanation } from "../state/notices";
import { texts } from "../texts";

/** The reasons of a check, in the visitor's words. */
export function Reasons({ reasons }: { reasons: readonly CheckReason[] }) {
  const t = texts.value;
  if (reasons.length === 0) return null;
  return (
    <ul>
      {reasons.map(({ code, message }) => {
        const [title, step] = explanation(code)(t);
        return (
          <li key={code}>
            <strong>{title}</strong> {step} <small data-testid="reason">{message}</small>
          </li>
        );
      })}
    </ul>
  );
}
