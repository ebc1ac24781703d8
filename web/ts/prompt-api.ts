/**
 * The browser's Prompt API (`LanguageModel`, https://webmachinelearning.github.io/prompt-api/) over a model of this package, for pages that use it
 * and for browsers that do not have it.
 *
 * Sessions take text and pictures, and answer in text. Audio and tools are not supported: `availability` is `"unavailable"` for them. Objects in a
 * picture, which the specification does not know, are in `session.objects`.
 *
 * @packageDocumentation
 */

export { createLanguageModel, installLanguageModel } from "./api/prompt-api/language-model.js";
export type { LanguageModelSource, LazyModel, LoadModel, LoadModelOptions } from "./api/prompt-api/host.js";
export type * from "./api/prompt-api/types.js";
