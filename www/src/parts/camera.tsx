import { useEffect, useRef, useState } from "preact/hooks";
import { attach } from "../state/chat";
import { fail } from "../state/notices";
import { encode, makePicture } from "../state/pictures";
import { texts } from "../texts";
import "./camera.css";
import { Dialog, opened } from "./dialog";
import { Icon } from "./icons";

/** Takes a picture with the camera, which is on only while the dialog is open. */
export function Camera() {
  const t = texts.value;
  const video = useRef<HTMLVideoElement>(null);
  const [failed, setFailed] = useState(false);
  const [ready, setReady] = useState(false);
  useEffect(() => {
    let stream: MediaStream | undefined;
    let closed = false;
    (async () => {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } } });
      if (closed || !video.current) return end(stream);
      video.current.srcObject = stream;
      await video.current.play();
      setReady(true);
    })().catch(() => {
      if (!closed) setFailed(true);
    });
    return () => {
      closed = true;
      end(stream);
    };
  }, []);

  const shoot = async () => {
    if (!video.current) return;
    const bitmap = await createImageBitmap(video.current);
    const picture = await makePicture(await encode(bitmap), t.camera);
    bitmap.close();
    opened.value = undefined;
    attach([picture]);
  };
  return (
    <Dialog name="camera" title={t.camera}>
      {!failed ? (
        <video ref={video} playsInline muted aria-label={t.camera} />
      ) : (
        <p role="alert">
          <strong>{t.cameraNone}</strong> {t.cameraHelp}
        </p>
      )}
      <div class="row end">
        <button type="button" class="main" data-testid="shoot" disabled={!ready} onClick={() => shoot().catch(fail)}>
          <Icon name="camera" /> {t.cameraTake}
        </button>
      </div>
    </Dialog>
  );
}

const end = (stream: MediaStream | undefined): void => stream?.getTracks().forEach((track) => track.stop());
