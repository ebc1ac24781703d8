import { announcement } from "./state/notices";
import { texts } from "./texts";
import "./app.css";
import { Camera } from "./parts/camera";
import { Composer } from "./parts/composer";
import { Conversion } from "./parts/conversion";
import { opened } from "./parts/dialog";
import { useDocumentDrops } from "./parts/drops";
import { Gallery } from "./parts/gallery";
import { Header } from "./parts/header";
import { Models } from "./parts/models";
import { ErrorMessage, Notices } from "./parts/notices";
import { SceneComposer } from "./parts/scene";
import { SettingsDialog } from "./parts/settings";
import { Stage } from "./parts/stage";
import { Talk } from "./parts/talk";

const DIALOGS = { models: Models, settings: SettingsDialog, gallery: Gallery, camera: Camera, scene: SceneComposer };

export function App() {
  const t = texts.value;
  const Open = opened.value && DIALOGS[opened.value];
  useDocumentDrops();
  return (
    <>
      <a class="skip" href="#question">
        {t.skip}
      </a>
      <Header />
      <Notices />
      {opened.value !== "models" && <Conversion />}
      <main>
        <Stage />
        <div class="side">
          {/* An open dialog shows the error itself. */}
          <Talk>{!Open && <ErrorMessage />}</Talk>
          <Composer />
        </div>
      </main>
      <p class="visually-hidden" role="status">
        {announcement.value}
      </p>
      {Open && <Open />}
    </>
  );
}
