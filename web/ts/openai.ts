/**
 * The shape of OpenAI's chat completions over a model in the browser, for programs that speak it already: no server, no network.
 *
 * Text, pictures (`image_url`), streaming, usage, `logprobs`, `seed` and `stop` are there. What the model can not do is refused with
 * `INVALID_ARGUMENT` and not ignored: tools, several choices, an answer's prefix. What OpenAI has no place for, objects in a picture,
 * stands beside the text as `message.objects`.
 *
 * @packageDocumentation
 */

export * from "./api/openai.js";
