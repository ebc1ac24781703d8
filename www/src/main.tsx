// The demo page, a plain user of the package. Text of models, files and errors is set as text, never as HTML.

import "./trusted";
import "./styles/tokens.css";
import "./styles/base.css";
import { render } from "preact";
import { registerSW } from "virtual:pwa-register";
import { App } from "./app";
import "./state/ahead";
import { EMBEDDED, kind, load, proposal, propose } from "./state/model";
import { fail, offlineReady, update } from "./state/notices";
import { pagePicture } from "./state/pictures";
import { restore, showExample } from "./state/store";
import { questionsFor } from "./state/tasks";
import { GALLERY } from "./parts/gallery";
import { opened } from "./parts/dialog";
import { texts } from "./texts";

// Development builds and some browsers have no service worker; the page works without one.
const takeOver = registerSW({
  onNeedRefresh: () => (update.value = () => void takeOver(true)),
  onOfflineReady: () => (offlineReady.value = true),
});

/** Restores the last visit. The first visit starts with an example. */
async function begin(): Promise<void> {
  if (await restore()) return;
  const { name, file } = GALLERY[0];
  showExample(await pagePicture(file, texts.value.galleryNames[name] ?? name), questionsFor(kind.value).first);
}

async function loadFirst(): Promise<void> {
  const asked = new URLSearchParams(location.search).get("model");
  if (asked === null) return load(EMBEDDED);
  await propose(asked);
  if (proposal.value) opened.value = "models";
}

/** Resolves when the page is drawn, or after a second: background tabs are not drawn. */
function drawn(): Promise<void> {
  return new Promise((resolve) => {
    requestAnimationFrame(() => setTimeout(resolve));
    setTimeout(resolve, 1000);
  });
}

// The page is drawn with its first content, so that nothing moves later, and before the model is loaded, which keeps all CPU cores busy.
begin()
  .catch(fail)
  .then(() => render(<App />, document.getElementById("app")!))
  .then(drawn)
  .then(loadFirst)
  .catch(fail);
