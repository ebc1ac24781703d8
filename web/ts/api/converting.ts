/** The load of a model while it is converted. */

import { sourceSpec, type HubOptions, type Posted, type SourceOptions, type SourceSpec } from "../weights/spec.js";

/** A model that is being converted, as the source of a load. */
export class ConvertingModel {
  readonly #url: string;
  readonly #manifest: string;
  readonly #workers: number;
  readonly #converted: Promise<unknown>;
  readonly #onTaking: (ports: MessagePort[]) => void;
  #taking = false;

  /**
   * @param url address of the model, once it is converted
   * @param manifest manifest whose shards have no hashes yet
   * @param workers number of workers that make shards
   * @param converted resolves when the model is in the cache
   * @param onTaking called once, when an attempt to load takes bytes: with a port for each worker
   */
  constructor(url: string, manifest: string, workers: number, converted: Promise<unknown>, onTaking: (ports: MessagePort[]) => void) {
    this.#url = url;
    this.#manifest = manifest;
    this.#workers = workers;
    this.#converted = converted;
    this.#onTaking = onTaking;
  }

  /** Returns the source of an attempt to load, and a function to call when the attempt takes bytes. */
  async attempt(options: SourceOptions & HubOptions): Promise<{ from: Posted<SourceSpec>; onTaking: () => void }> {
    if (this.#taking) {
      // The bytes pass once. A further attempt reads them from the cache.
      await this.#converted;
      return { from: sourceSpec(this.#url, options), onTaking: () => undefined };
    }
    const channels = Array.from({ length: this.#workers }, () => new MessageChannel());
    const ports = channels.map(({ port2 }) => port2);
    const onTaking = () => {
      if (this.#taking) return;
      this.#taking = true;
      this.#onTaking(channels.map(({ port1 }) => port1));
    };
    return { from: { spec: { kind: "conversion", url: this.#url, manifest: this.#manifest, ports }, transfer: ports }, onTaking };
  }
}
