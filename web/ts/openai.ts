/**
 * OpenAI's chat completions over a model in the browser, for programs that use them already: no server, no network.
 *
 * Supports text, pictures (`image_url`), streaming, usage, `logprobs`, `seed`, `stop` and `response_format`, and with Qwen3-VL `tools`. A parameter
 * that the model cannot follow, such as `n: 2`, fails with `INVALID_ARGUMENT` and is never ignored. Objects in a picture, for which
 * OpenAI has no field, are in `message.objects`. With `stream: true`, `logprobs` come with the last chunk.
 *
 * @packageDocumentation
 */

export * from "./api/openai.js";
