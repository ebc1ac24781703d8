import { promptText, QwenVL } from "qwen-vl-web";
import { Ask } from "./ask.jsx";

/** Rendered on a server, where the package can be imported and its helpers work. */
export default function Page() {
  return (
    <main>
      <h1>{`${typeof QwenVL.load} ${promptText(["a dog"])}`}</h1>
      <Ask />
    </main>
  );
}
