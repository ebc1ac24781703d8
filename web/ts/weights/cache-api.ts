import { concat } from "./download.js";
import type { CacheFile, CacheStore, StoredFile } from "./store.js";

const CACHE = "qwen-vl-web";
/** Size of one response. A response cannot grow, so a file is a sequence of them. */
const PIECE_BYTES = 4 << 20;
/** Base of the addresses that identify the responses. Nothing is fetched from them. */
const BASE = "https://qwen-vl-web.invalid/";

interface Piece {
  name: string;
  begin: number;
  end: number;
}

/** Stores files as sequences of responses in the Cache API, for contexts without the origin private file system. */
export class CacheApiStore implements CacheStore {
  readonly kind = "cache-api";
  readonly #cache: Cache;

  private constructor(cache: Cache) {
    this.#cache = cache;
  }

  static async create(): Promise<CacheApiStore> {
    return new CacheApiStore(await caches.open(CACHE));
  }

  async open(name: string, create: boolean): Promise<CacheFile | undefined> {
    const pieces = (await this.#pieces()).filter((piece) => piece.name === name).sort((a, b) => a.begin - b.begin);
    if (pieces.length === 0 && !create) return undefined;
    // The file ends at the first piece that is missing: it was evicted or never written.
    const gap = pieces.findIndex((piece, index) => piece.begin !== (pieces[index - 1]?.end ?? 0));
    return new CacheApiFile(this.#cache, name, gap < 0 ? pieces : pieces.slice(0, gap));
  }

  async list(): Promise<StoredFile[]> {
    const files = new Map<string, number>();
    for (const { name, begin, end } of await this.#pieces()) files.set(name, (files.get(name) ?? 0) + end - begin);
    return [...files].map(([name, bytes]) => ({ name, bytes }));
  }

  async delete(name: string): Promise<void> {
    for (const piece of await this.#pieces()) if (piece.name === name) await this.#cache.delete(address(piece));
  }

  async #pieces(): Promise<Piece[]> {
    return (await this.#cache.keys()).map(({ url }) => pieceAt(url)).filter((piece) => piece !== undefined);
  }
}

/** Returns the piece whose address this is; `undefined` for a response of another script of the site. */
function pieceAt(url: string): Piece | undefined {
  const [, name, begin, end] = /^([^/]+)\/(\d+)\/(\d+)$/.exec(url.startsWith(BASE) ? url.slice(BASE.length) : "") ?? [];
  if (name === undefined) return undefined;
  try {
    return { name: decodeURIComponent(name), begin: Number(begin), end: Number(end) };
  } catch {
    // Malformed escapes.
    return undefined;
  }
}

function address({ name, begin, end }: Piece): string {
  return `${BASE}${encodeURIComponent(name)}/${begin}/${end}`;
}

class CacheApiFile implements CacheFile {
  readonly #cache: Cache;
  readonly #name: string;
  #stored: Piece[];
  /** Bytes that do not fill a piece yet. */
  #tail: Uint8Array[] = [];
  #tailBytes = 0;

  constructor(cache: Cache, name: string, stored: Piece[]) {
    this.#cache = cache;
    this.#name = name;
    this.#stored = stored;
  }

  get bytes(): number {
    return this.#storedBytes + this.#tailBytes;
  }

  get #storedBytes(): number {
    return this.#stored.at(-1)?.end ?? 0;
  }

  async read(at: number, length: number): Promise<Uint8Array> {
    const piece = this.#stored.find(({ begin, end }) => begin <= at && at < end);
    const response = piece && (await this.#cache.match(address(piece)));
    if (!piece || !response) return new Uint8Array(0);
    const from = at - piece.begin;
    return new Uint8Array(await (await response.blob()).slice(from, from + length).arrayBuffer());
  }

  async append(bytes: Uint8Array): Promise<void> {
    this.#tail.push(bytes.slice());
    this.#tailBytes += bytes.byteLength;
    if (this.#tailBytes >= PIECE_BYTES) await this.#writeTail();
  }

  async truncate(): Promise<void> {
    for (const piece of this.#stored) await this.#cache.delete(address(piece));
    this.#stored = [];
    this.#tail = [];
    this.#tailBytes = 0;
  }

  async close(): Promise<void> {
    await this.#writeTail();
  }

  async #writeTail(): Promise<void> {
    if (this.#tailBytes === 0) return;
    const begin = this.#storedBytes;
    const piece = { name: this.#name, begin, end: begin + this.#tailBytes };
    const body = concat(this.#tail);
    this.#tail = [];
    this.#tailBytes = 0;
    await this.#cache.put(address(piece), new Response(body));
    this.#stored.push(piece);
  }
}
