/**
 * Types that cross the edge between Rust and TypeScript, generated from the Rust ones.
 * Do not edit: change the Rust type, then run `QWEN_VL_WRITE_TYPES=1 cargo test -p qwen-vl-web`.
 */

/**
 * Options of a load. Absent ones are those of the runtime.
 */
export type LoadOptions = {
/**
 * Maximum length of prompt and answer together, tokens.
 */
contextLength?: number,
/**
 * True to accept software adapters only.
 */
forceFallbackAdapter?: boolean,
/**
 * True to prefer the adapter that saves energy.
 */
lowPower?: boolean,
/**
 * Largest number of tokens of a picture, for models that take pictures of any size.
 */
maxPictureTokens?: number,
/**
 * Number format of the KV cache.
 */
kv?: "f32" | "f16" | "q8",
/**
 * Coarsest number format that products may compute in.
 */
precision?: "f32" | "f16" | "q8",
/**
 * Kernel set to use instead of the fastest.
 */
kernels?: "plain" | "cpu" | "subgroups" | "f16" | "packed",
/**
 * True if the device will have the feature `subgroups`.
 */
subgroups?: boolean,
/**
 * True if the adapter is software, false if it is a GPU; absent if the browser does not say.
 */
software?: boolean,
/**
 * False to leave the kernels of decoding as they are, instead of tuning them to the GPU.
 */
tuning?: boolean,
/**
 * Record of kernels that an earlier load has measured on the same adapter and driver. Any other text is ignored.
 */
kernelRecord?: string, };

/**
 * Description of the adapter.
 */
export type Adapter = {
/**
 * Name; empty if the browser hides it.
 */
name: string,
/**
 * Driver; empty if the browser hides it.
 */
driver: string,
/**
 * API below WebGPU, or `cpu`.
 */
backend: string,
/**
 * Kernel set in use.
 */
kernels: string,
/**
 * Choice of the kernel set; absent if nothing was chosen, because the load named the set or there is no GPU.
 */
kernelChoice?: KernelChoice,
/**
 * Limit of one binding, bytes.
 */
maxBindingBytes: number, };

/**
 * Choice of a kernel set.
 */
export type KernelChoice = {
/**
 * Origin of the choice: known from the `adapter`, `measured` by this load, or by an earlier one and `restored`.
 */
origin: "adapter" | "measured" | "restored",
/**
 * Duration of the choice, in milliseconds.
 */
ms: number,
/**
 * The measurements, in order.
 */
trials: Array<KernelTrial>, };

/**
 * Measurement of a kernel set.
 */
export type KernelTrial = {
/**
 * The set.
 */
kernels: string,
/**
 * Work that it did.
 */
work: string,
/**
 * Time of the work, in milliseconds.
 */
ms: number, };

/**
 * Generation of a model: Qwen-VL (2023), Qwen2-VL, Qwen2.5-VL or Qwen3-VL.
 */
export type Family = "qwen_vl" | "qwen2_vl" | "qwen2_5_vl" | "qwen3_vl";

/**
 * The generation of a model, and the lengths it was loaded with.
 */
export type ModelFacts = {
/**
 * Generation of the model.
 */
family: Family,
/**
 * Maximum length of prompt and answer together, tokens.
 */
contextLength: number,
/**
 * Fewest and most tokens of a picture; equal if all pictures have one size.
 */
pictureTokens: [number, number], };

/**
 * Progress of a benchmark.
 */
export type Steps = {
/**
 * Steps done.
 */
done: number,
/**
 * Steps in all.
 */
total: number, };

/**
 * Memory that a model will take.
 */
export type Estimate = {
/**
 * Maximum length of prompt and answer together, tokens: the requested one, or the default.
 */
contextLength: number,
/**
 * On the GPU.
 */
gpu: GpuEstimate,
/**
 * In the CPU fallback.
 */
cpu: CpuEstimate, };

/**
 * GPU memory that a model will take, bytes.
 */
export type GpuEstimate = {
/**
 * Weights and tables of the checkpoint.
 */
weights: number,
/**
 * Keys and values of the whole context.
 */
kvCache: number,
/**
 * Activations and position tables.
 */
scratch: number,
/**
 * All that a load allocates: the sum of the above.
 */
total: number,
/**
 * The features of one picture, in addition to `total`.
 */
picture: number,
/**
 * The largest buffer, which must fit the adapter's limits of buffers and bindings.
 */
largestBinding: number, };

/**
 * Memory that a model will take in the CPU fallback.
 */
export type CpuEstimate = {
/**
 * Weights in f32, bytes.
 */
bytes: number,
/**
 * Most weights that the CPU fallback accepts, bytes.
 */
limit: number,
/**
 * True if the CPU fallback accepts the model.
 */
fits: boolean, };

/**
 * The input of a run.
 */
export type Request = {
/**
 * The text.
 */
prompt: PromptInput,
/**
 * Generation settings; absent ones are those of the checkpoint.
 */
generation?: GenerationOptions,
/**
 * Sizes of the pictures for the model.
 */
pictures?: PictureLimits, };

/**
 * The content of a message.
 *
 * In JSON it is a string or a list of parts:
 *
 * ```json
 * "Picture 1: <img>cat.png</img>\nWhat is <ref>it</ref>?"
 * [{"image": "cat.png"}, {"text": "What does <img> mean in HTML, and where is "}, {"ref": "the cat", "boxes": [[1, 2, 30, 40]]}, {"text": "?"}]
 * ```
 */
export type MessageContent = string | Array<MessagePart>;

/**
 * A part of a message. In JSON the key says which: `text`, `image`, `video` or `ref`.
 */
export type MessagePart = {
/**
 * The text.
 */
text: string, } | {
/**
 * Its name. In the 2023 model, 1 byte of UTF-8 takes one of the picture's positions.
 */
image: string, } | {
/**
 * Its name.
 */
video: string, } | {
/**
 * The name.
 */
ref: string,
/**
 * `[x1, y1, x2, y2]` in thousandths of the picture.
 */
boxes?: Array<[number, number, number, number]>, };

/**
 * A message of a conversation.
 */
export type Message = {
/**
 * Its sender.
 */
role: Role,
/**
 * Its content.
 */
content: MessageContent,
/**
 * Calls of tools in an answer.
 */
tool_calls?: Array<ToolCall>, };

/**
 * The sender of a message.
 */
export type Role = "system" | "user" | "assistant" | "tool";

/**
 * A call of a tool.
 */
export type ToolCall = {
/**
 * Name of the tool.
 */
name: string,
/**
 * Its arguments, as JSON text.
 */
arguments: string, };

/**
 * The text of a request. It names its pictures; the pictures themselves are passed separately, in the same order.
 */
export type PromptInput = { "kind": "raw",
/**
 * The text; `<img>name</img>` in it is a picture.
 */
text: string, } | { "kind": "chat",
/**
 * System text; absent for the default one.
 */
system?: string,
/**
 * Earlier turns: pairs of question and answer. Each is a list of parts, or a string with tags.
 */
history?: Array<[MessageContent, MessageContent]>,
/**
 * The question: a list of parts, or a string with tags.
 */
query: MessageContent,
/**
 * Beginning of the answer, which the model continues.
 */
prefix?: string,
/**
 * Handling of a conversation that does not fit.
 */
overflow?: Overflow, } | { "kind": "messages",
/**
 * The messages, in order.
 */
messages: Array<Message>,
/**
 * Descriptions of tools, as JSON texts. Only Qwen3-VL takes them.
 */
tools?: Array<string>,
/**
 * Beginning of the answer, which the model continues.
 */
prefix?: string, } | { "kind": "ids",
/**
 * The ids.
 */
ids: Array<number>, };

/**
 * Handling of a conversation that is too long.
 */
export type Overflow = "drop-oldest" | "error";

/**
 * Generation settings. Absent ones are those of the checkpoint.
 *
 * An answer is sampled if the checkpoint samples or if `temperature` (above 0), `top_p` or `top_k` is set. It is greedy if `greedy` is
 * true, whatever else is set, or if `temperature` is 0.
 */
export type GenerationOptions = {
/**
 * Maximum length of the answer, tokens; at least 1.
 */
max_new_tokens?: number,
/**
 * True to take the most likely token always; false to sample.
 */
greedy?: boolean,
/**
 * Divisor of the logits; 0 is greedy.
 */
temperature?: number,
/**
 * Probability mass to sample from, 0 to 1.
 */
top_p?: number,
/**
 * Number of most likely tokens to sample from; 0 keeps all.
 */
top_k?: number,
/**
 * Seed of the random numbers; absent for the clock. It has no effect on a greedy answer, and does not make an answer sampled.
 */
seed?: number,
/**
 * Continue past stop tokens, up to `max_new_tokens`: for comparisons with the original.
 */
ignore_stop?: boolean,
/**
 * Minimum length of the answer, tokens: stop tokens are excluded before it.
 */
min_new_tokens?: number,
/**
 * Makes tokens that occur in the prompt or the answer less likely; 1 changes nothing.
 */
repetition_penalty?: number,
/**
 * Subtracted from the logits of tokens that occur in the answer; 0 changes nothing. It ends loops. Absent for the checkpoint's, and
 * without one 1.5 for sampled answers of Qwen3-VL, as its makers recommend.
 */
presence_penalty?: number,
/**
 * Continue an answer that repeats itself. By default it ends once its last tokens are a passage of up to 64 tokens, four times and at least
 * 128 tokens in all.
 */
allow_loops?: boolean,
/**
 * Texts that end the answer; they are not part of it. Empty ones have no effect.
 */
stop?: Array<string>,
/**
 * Token ids that end the answer, in addition to the checkpoint's.
 */
stop_tokens?: Array<number>,
/**
 * Return each token's log-probability and those of this many of the most likely tokens.
 */
logprobs?: number,
/**
 * Handling of the KV cache where the rotary base would change.
 */
kv_reuse?: KvReuse, };

/**
 * Limits of the size of a picture for models that take pictures of any size. A picture outside of them is enlarged or reduced. The 2023
 * model, whose pictures have one size, ignores them.
 */
export type PictureLimits = {
/**
 * Fewest tokens of a picture; absent for the checkpoint's limit. Locating small objects needs about 1024.
 */
min_tokens?: number,
/**
 * Most tokens of a picture; absent, and at most, what the model was loaded with.
 */
max_tokens?: number, };

/**
 * Handling of the KV cache when a longer prompt changes the rotary base (dynamic NTK: above `seq_length`, then at each doubling).
 */
export type KvReuse = "exact" | "fast";

/**
 * Progress of a run.
 */
export type Event = { "type": "encode",
/**
 * Pictures done.
 */
done: number,
/**
 * Pictures in all.
 */
total: number, } | { "type": "prefill",
/**
 * Tokens done.
 */
done: number,
/**
 * Tokens in all.
 */
total: number, } | { "type": "score",
/**
 * Candidates done.
 */
done: number,
/**
 * Candidates in all.
 */
total: number, } | { "type": "text",
/**
 * The new text without tags.
 */
delta: string,
/**
 * All text since the previous event, with its tags.
 */
raw: string, } | { "type": "object",
/**
 * The object.
 */
object: GroundedObject, };

/**
 * The answer to a request.
 */
export type Answer = {
/**
 * Token ids of the prompt.
 */
prompt_ids: Array<number>,
/**
 * Number of prompt tokens that the KV cache held from the previous run.
 */
reused_tokens: number,
/**
 * Number of oldest turns that were dropped from the prompt.
 */
dropped_turns: number,
/**
 * The pictures of the prompt, without those of dropped turns.
 */
images: Array<PictureInfo>,
/**
 * Token ids of the answer; the last may be a stop token.
 */
tokens: Array<number>,
/**
 * The answer without tags, stripped.
 */
text: string,
/**
 * The answer with its grounding tags, as it enters a chat's history.
 */
raw: string,
/**
 * The objects that the answer points at.
 */
objects: Array<GroundedObject>,
/**
 * Reason why the answer ended.
 */
finish_reason: FinishReason,
/**
 * Wall-clock times.
 */
timings: Timings,
/**
 * Log-probability of each token, if requested.
 */
logprobs: Array<TokenLogprobs> | null, };

/**
 * Reason why an answer ended.
 */
export type FinishReason = "stop" | "stop-string" | "length" | "context" | "loop" | "cancelled";

/**
 * Wall-clock times of a run.
 */
export type Timings = {
/**
 * Pictures: decoding, resize, vision tower and resampler.
 */
encode_ms: number,
/**
 * The prompt through the decoder.
 */
prefill_ms: number,
/**
 * From the start to the first token.
 */
first_token_ms: number,
/**
 * From the first token to the last.
 */
decode_ms: number,
/**
 * Tokens after the first per second of `decode_ms`; 0 if the clock did not advance.
 */
decode_tokens_per_second: number, };

/**
 * Identity and size of a picture or a video.
 */
export type PictureInfo = {
/**
 * Hash of its pixels.
 */
id: string,
/**
 * Width, pixels.
 */
width: number,
/**
 * Height, pixels.
 */
height: number,
/**
 * Width and height that the model sees, pixels.
 */
seen: [number, number],
/**
 * Positions in the prompt.
 */
tokens: number,
/**
 * Number of frames of a video; 1 for a picture.
 */
frames: number, };

/**
 * The way from a video to the frames that the model sees.
 */
export type VideoOptions = {
/**
 * Frames a second; 2 by default, as the models were trained.
 */
fps?: number,
/**
 * Most frames; 768 by default.
 */
max_frames?: number,
/**
 * Fewest tokens of two frames; absent for the rule of the generation.
 */
min_step_tokens?: number,
/**
 * Most tokens of the whole video. Frames are reduced, and if that is not enough, left out.
 */
max_tokens?: number, };

/**
 * Facts about a video before its frames are read.
 */
export type VideoSource = {
/**
 * Width of a frame, pixels.
 */
width: number,
/**
 * Height of a frame, pixels.
 */
height: number,
/**
 * Duration, seconds. Absent if the frames were chosen before: all are kept, as far as they fit.
 */
duration?: number,
/**
 * Number of frames; absent if any time can be read.
 */
frames?: number, };

/**
 * The frames that the model sees, and their size.
 */
export type VideoPlan = {
/**
 * Place of each frame: its index if [`VideoSource::frames`] is set, otherwise its time in seconds.
 */
frames: Array<number>,
/**
 * Frames a second; absent for frames that were chosen before.
 */
fps: number | null,
/**
 * Width of a frame for the model, pixels.
 */
width: number,
/**
 * Height of a frame for the model, pixels.
 */
height: number,
/**
 * Tokens of the whole video.
 */
tokens: number, };

/**
 * An object that the answer points at in a picture.
 */
export type GroundedObject = {
/**
 * Its name, if the answer has one.
 */
ref: string | null,
/**
 * Its shape.
 */
kind: ObjectKind,
/**
 * Index of its picture in the prompt, if it is known: the only picture, or the one that the answer names most recently before the
 * object, or the only one that the question names. The model itself never says which picture it means. For Qwen2.5-VL, whose coordinates
 * need a picture, it is otherwise the last one.
 */
image: number | null,
/**
 * Coordinates in thousandths of the picture.
 */
norm: Shape,
/**
 * Coordinates in pixels of the picture, if it is known.
 */
pixels: Shape | null,
/**
 * Position of the name in the text without markup: start and end in UTF-16 code units (the arguments of JavaScript's `slice`). Empty,
 * at the object's place, if the text there has no name. The names of Qwen2.5-VL and Qwen3-VL are part of the
 * markup.
 */
range: [number, number], };

/**
 * The shape of an object.
 */
export type ObjectKind = "box" | "quad" | "point";

/**
 * Coordinates of an object.
 */
export type Shape = [number, number, number, number] | [[number, number], [number, number], [number, number], [number, number]] | [number, number];

/**
 * A token and its log-probability.
 */
export type TokenLogprob = {
/**
 * Token id.
 */
token: number,
/**
 * Text of the token alone; a part of a character shows as U+FFFD.
 */
text: string,
/**
 * Natural logarithm of its probability, before temperature and penalties.
 */
logprob: number, };

/**
 * A token of an answer with its most likely alternatives.
 */
export type TokenLogprobs = {
/**
 * The most likely tokens at this position.
 */
top: Array<TokenLogprob>,
/**
 * Token id.
 */
token: number,
/**
 * Text of the token alone; a part of a character shows as U+FFFD.
 */
text: string,
/**
 * Natural logarithm of its probability, before temperature and penalties.
 */
logprob: number, };

/**
 * The input of a scoring run.
 */
export type ScoreRequest = {
/**
 * The text before.
 */
prompt: PromptInput,
/**
 * The texts that may follow it.
 */
candidates: Array<string>,
/**
 * Sizes of the pictures for the model.
 */
pictures?: PictureLimits, };

/**
 * Likelihood of a text after a prompt.
 */
export type Score = {
/**
 * Token ids of the text.
 */
tokens: Array<number>,
/**
 * Natural logarithm of each token's probability.
 */
logprobs: Array<number>, };

/**
 * A form of a text.
 */
export type Form = { "json_schema": string } | { "regex": {
/**
 * The pattern.
 */
pattern: string,
/**
 * JavaScript's flags; `i` and `s` count.
 */
flags: string, } } | { "lark": string };

/**
 * Options of a benchmark.
 */
export type BenchmarkOptions = {
/**
 * Sequence lengths at which decoding is timed, tokens; those beyond the context are left out.
 */
contexts?: Array<number>,
/**
 * Prompt lengths, tokens; those beyond the context are left out.
 */
prompts?: Array<number>,
/**
 * Number of tokens to decode at each length, at least 1; half of the context at most.
 */
decode_tokens?: number,
/**
 * Number of repetitions, at least 1; the median counts.
 */
runs?: number,
/**
 * True if encoding a picture is timed too.
 */
picture?: boolean, };

/**
 * Result of a benchmark: medians of wall-clock times.
 */
export type BenchmarkReport = {
/**
 * One picture through vision tower and resampler, milliseconds; 0 if it was not requested.
 */
encode_ms: number,
/**
 * Times of a block of the tower and of the resampler, if they can run separately.
 */
picture_parts: PictureParts | null,
/**
 * Speed of prompts.
 */
prefill: Array<PrefillSpeed>,
/**
 * Speed of greedy decoding.
 */
decode: Array<DecodeSpeed>,
/**
 * Number of launches for one token, at the longest sequence of `decode`.
 */
dispatches_per_token: number,
/**
 * Upper limits of the adapter; absent without an adapter.
 */
limits: AdapterSpeed | null, };

/**
 * Parts of encoding a picture.
 */
export type PictureParts = {
/**
 * One block of the vision tower, the mean of all, milliseconds.
 */
block_ms: number,
/**
 * The resampler or all mergers, milliseconds.
 */
resampler_ms: number, };

/**
 * Speed of one prompt length.
 */
export type PrefillSpeed = {
/**
 * Length of the prompt.
 */
tokens: number,
/**
 * Time of the whole prompt, milliseconds.
 */
millis: number,
/**
 * Tokens per second; 0 if the clock did not advance.
 */
tokens_per_second: number, };

/**
 * Speed of greedy decoding at one sequence length.
 */
export type DecodeSpeed = {
/**
 * Length of the sequence at the last token.
 */
context: number,
/**
 * Tokens per second; 0 if the clock did not advance.
 */
tokens_per_second: number,
/**
 * Bytes of weights, keys and values that one token reads.
 */
bytes_per_token: number, };

/**
 * Upper bounds of an adapter's speed. Decoding is bound by the copy or by the dispatches, loading by the upload.
 */
export type AdapterSpeed = {
/**
 * Bytes read plus bytes written by a copy of a large buffer.
 */
copy_gigabytes_per_second: number,
/**
 * Time of a launch that does almost nothing, one of many in a submission.
 */
microseconds_per_dispatch: number,
/**
 * Bytes written from memory to a buffer, in pieces of the size in which weights arrive.
 */
upload_gigabytes_per_second: number, };

/**
 * Kind of an error, for programs.
 */
export type EdgeErrorCode = "WEBGPU_UNAVAILABLE" | "NO_ADAPTER" | "INSUFFICIENT_LIMITS" | "GPU_OUT_OF_MEMORY" | "GPU_INCORRECT" | "DEVICE_LOST" | "INTEGRITY" | "MANIFEST_INVALID" | "MANIFEST_VERSION" | "VOCABULARY_INVALID" | "UNSUPPORTED_MODEL" | "IMAGE_DECODE" | "IMAGE_TOO_LARGE" | "INVALID_ARGUMENT" | "CONTEXT_OVERFLOW" | "BUSY" | "DISPOSED" | "INTERNAL";

/**
 * Values of an error, for programs.
 */
export type EdgeErrorDetails = {
/**
 * File name of a shard.
 */
shard?: string,
/**
 * Length of the shard, bytes, or its SHA-256, by the manifest.
 */
expected?: LengthOrHash,
/**
 * Length or SHA-256 of the bytes that arrived.
 */
found?: LengthOrHash,
/**
 * Tokens in use.
 */
used?: number,
/**
 * Bytes needed.
 */
needed?: number,
/**
 * Tokens or bytes that are possible.
 */
limit?: number, };

/**
 * Bytes, or a SHA-256.
 */
export type LengthOrHash = number | string;

/**
 * A checkpoint, and the settings of its conversion. Absent settings are those of [`Settings::default`].
 */
export type ConversionRequest = {
/**
 * The name of the checkpoint, unless `place` is a snapshot in a Hugging Face cache.
 */
name: string,
/**
 * Its address or path, for messages.
 */
place: string,
/**
 * The files of its folder and of the folders in it.
 */
files: Array<RemoteFile>,
/**
 * The scheme of matrices without a rule: `q4`, `q8`, `f16` or `f32`.
 */
scheme?: string,
/**
 * Weights that share a scale, in q4 and q8: 32, 64 or 128.
 */
groupSize?: number,
/**
 * Modules that are stored in another scheme: `MODULE=SCHEME`. The last one that applies counts.
 */
keep?: Array<string>,
/**
 * True to store NaN and infinite weights as zero.
 */
allowNonfinite?: boolean,
/**
 * A shard is closed when the next part would make its data larger than this, in bytes.
 */
shardBytes?: number, };

/**
 * A file of the source.
 */
export type RemoteFile = {
/**
 * Its path in the folder, with slashes.
 */
path: string,
/**
 * Size in bytes.
 */
bytes: number,
/**
 * Text that changes when the contents change: a hash, or the time of the last change.
 */
version: string, };

/**
 * A conversion as it was decided before the first weight is read.
 */
export type ConversionPlan = {
/**
 * Generation of the model.
 */
family: Family,
/**
 * Identifies the conversion: those with equal fingerprints make equal bytes.
 */
fingerprint: string,
/**
 * Bytes of the weights that are read.
 */
sourceBytes: number,
/**
 * Number of weights.
 */
weights: number,
/**
 * Bits a weight over all shards.
 */
bitsPerWeight: number,
/**
 * The shards, in order.
 */
shards: Array<PlannedFile>,
/**
 * Size of all files of the web checkpoint, bytes.
 */
bytes: number,
/**
 * Tensors of the source that the model does not have.
 */
unusedTensors: Array<string>,
/**
 * Sentences about what was ignored, left aside or renamed.
 */
notes: Array<string>,
/**
 * A manifest whose shards have no hashes yet, and whose card shows no errors yet, to estimate the memory of the model.
 */
manifest: string, };

/**
 * A file of the result.
 */
export type PlannedFile = {
/**
 * Its name.
 */
file: string,
/**
 * Its size.
 */
bytes: number, };

/**
 * Bytes of a file that a conversion needs.
 */
export type Need = {
/**
 * Index into the list of files.
 */
file: number,
/**
 * The first byte.
 */
start: number,
/**
 * One past the last byte.
 */
end: number, };

/**
 * Maximum number of pixels of a picture.
 */
export const MAX_PICTURE_PIXELS = 67108864;
