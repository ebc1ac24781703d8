// The package's `dist` lies in the extension's folder: extensions may load no code from elsewhere. Weights come from a host of `host_permissions`.
import { QwenVL } from "./qwen-vl-web/index.js";

const place = document.querySelector("p");
try {
  const model = await QwenVL.load(`${new URLSearchParams(location.search).get("host")}/model/`);
  place.textContent = (await model.createSession().ask("What is it?")).text;
} catch (error) {
  place.textContent = `${error.code}: ${error.message}`;
}
place.dataset.done = "true";
