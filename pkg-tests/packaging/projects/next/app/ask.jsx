"use client";

import { useEffect, useState } from "react";
import { QwenVL } from "qwen-vl-web";

export function Ask() {
  const [answer, setAnswer] = useState();
  useEffect(() => {
    const left = new AbortController();
    (async () => {
      const backend = new URLSearchParams(location.search).get("backend") ?? "auto";
      const model = await QwenVL.load("/model/", { signal: left.signal, backend });
      setAnswer((await model.createSession().ask("What is it?")).text);
    })().catch((error) => left.signal.aborted || setAnswer(`${error.code}: ${error.message}`));
    return () => left.abort();
  }, []);
  return <p data-done={answer !== undefined}>{answer}</p>;
}
