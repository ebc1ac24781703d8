// The demo page: a plain user of the package. Whatever a model, a file or an error says is set as text, never as HTML.

import "./trusted";
import { render } from "preact";
import { registerSW } from "virtual:pwa-register";
import { App } from "./app";
import "./state/ahead";
import { EMBEDDED, kind, load, propose, proposal } from "./state/model";
import { fail, offlineReady, update } from "./state/notices";
import { pagePicture } from "./state/pictures";
import { restore, showExample } from "./state/store";
import { GALLERY } from "./parts/gallery";
import { opened } from "./parts/dialog";
import { texts } from "./texts";
import "./style.css";

// In development there is no service worker, and where the browser offers none the page works without.
const takeOver = registerSW({
  onNeedRefresh: () => (update.value = () => void takeOver(true)),
  onOfflineReady: () => (offlineReady.value = true),
});

/** A visit goes on where the last one ended; the first one starts with an example. */
async function begin(): Promise<void> {
  if (await restore()) return;
  const { name, file } = GALLERY[0];
  showExample(await pagePicture(file, texts.value.galleryNames[name] ?? name), texts.value.firstQuestion[kind.value]);
}

async function loadFirst(): Promise<void> {
  const asked = new URLSearchParams(location.search).get("model");
  if (asked === null) return load(EMBEDDED);
  await propose(asked);
  if (proposal.value) opened.value = "models";
}

/** When the page has been drawn, or is not going to be for now, as in a tab behind others. */
function drawn(): Promise<void> {
  return new Promise((resolve) => {
    requestAnimationFrame(() => setTimeout(resolve));
    setTimeout(resolve, 1000);
  });
}

// Drawn with what the visit begins with, so that nothing moves afterwards. And what there is to see comes first: loading a model keeps all
// processors busy.
begin()
  .catch(fail)
  .then(() => render(<App />, document.getElementById("app")!))
  .then(drawn)
  .then(loadFirst)
  .catch(fail);
