// No bundler: the files of the package as they are. A page without a strict policy could say "qwen-vl-web" by an import map.
import { QwenVL } from "./node_modules/qwen-vl-web/dist/index.js";

// What the address says: the tests try both.
const backend = new URLSearchParams(location.search).get("backend") ?? "auto";
const place = document.querySelector("p");
try {
  const model = await QwenVL.load("/model/", { backend });
  place.textContent = (await model.createSession().ask([{ image: "/cat.png" }, "What is it?"])).text;
} catch (error) {
  place.textContent = `${error.code}: ${error.message}`;
}
place.dataset.done = "true";
