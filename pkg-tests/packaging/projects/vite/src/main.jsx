import { StrictMode, useEffect, useState } from "react";
import { createRoot } from "react-dom/client";
import { QwenVL } from "qwen-vl-web";

function App() {
  const [text, setText] = useState("");
  const [done, setDone] = useState(false);
  useEffect(() => {
    // React mounts twice in development: the first model is given up while it loads.
    const left = new AbortController();
    (async () => {
      const backend = new URLSearchParams(location.search).get("backend") ?? "auto";
      await using model = await QwenVL.load("/model/", { signal: left.signal, backend });
      const run = model.createSession().ask("What is it?", { signal: left.signal });
      for await (const delta of run.text()) setText((text) => text + delta);
      setDone(true);
    })().catch((error) => left.signal.aborted || setText(`${error.code}: ${error.message}`));
    return () => left.abort();
  }, []);
  return <p data-done={done}>{text}</p>;
}

createRoot(document.getElementById("root")).render(
  <StrictMode>
    <App />
  </StrictMode>,
);
