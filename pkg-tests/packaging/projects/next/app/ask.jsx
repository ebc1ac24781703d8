"use client";

import { useEffect, useState } from "react";
import { QwenVL } from "qwen-vl-web";

export function Ask() {
  const [answer, setAnswer] = useState();
  useEffect(() => {
    const left = new AbortController();
    (async () => {
      const model = await QwenVL.load("/model/", { signal: left.signal });
      setAnswer((await model.createSession().ask("What is it?")).text);
    })().catch((error) => left.signal.aborted || setAnswer(`${error.code}: ${error.message}`));
    return () => left.abort();
  }, []);
  return <p data-done={answer !== undefined}>{answer}</p>;
}
