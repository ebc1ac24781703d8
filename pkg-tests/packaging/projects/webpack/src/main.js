import { QwenVL } from "qwen-vl-web";
import { createOpenAI } from "qwen-vl-web/openai";

// What the address says: the tests try both.
const backend = new URLSearchParams(location.search).get("backend") ?? "auto";
const place = document.querySelector("p");
try {
  const model = await QwenVL.load("/model/", { backend });
  const { choices } = await createOpenAI(model).chat.completions.create({ messages: [{ role: "user", content: "What is it?" }] });
  place.textContent = choices[0].message.content;
} catch (error) {
  place.textContent = `${error.code}: ${error.message}`;
}
place.dataset.done = "true";
