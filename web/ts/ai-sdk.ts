/**
 * A provider for the AI SDK (the npm package `ai`, version 7): `generateText({ model: createQwenVL(model)(), prompt })`.
 *
 * Takes text, pictures (files of type `image/*`: bytes, base64, addresses), abort signals, sampling settings, and a JSON schema as the form of the
 * answer; with Qwen3-VL also tools. A setting that the model cannot follow becomes a warning of the call. A message that the model cannot read
 * fails with `INVALID_ARGUMENT`. If the last message is an answer, the model continues it.
 *
 * Options of `ask` that the AI SDK does not know are in `providerOptions.qwenVL`, and what it has no field for is in
 * `providerMetadata.qwenVL`: see {@link QwenVLMetadata}.
 *
 * @packageDocumentation
 */

export * from "./api/ai-sdk.js";
