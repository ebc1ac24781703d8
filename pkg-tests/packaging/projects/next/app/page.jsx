import { parse, QwenVL } from "qwen-vl-web";
import { Ask } from "./ask.jsx";

/** Rendered on a server, where the package can be imported and its helpers work. */
export default function Page() {
  const { text, objects } = parse("<ref>a dog</ref><box>(1,2),(3,4)</box>");
  return (
    <main>
      <h1>{`${typeof QwenVL.load} ${text} ${objects.length}`}</h1>
      <Ask />
    </main>
  );
}
