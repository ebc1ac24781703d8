// Compiled and never run: the provider is one of the AI SDK. The types of `ai` itself do not compile under all options of this project.

import type { LanguageModelV4, ProviderV4 } from "@ai-sdk/provider";
import type { Grounded, QwenVLModel } from "qwen-vl-web";
import { createQwenVL, type QwenVLMetadata } from "qwen-vl-web/ai-sdk";

export async function use(model: QwenVLModel): Promise<Grounded[]> {
  const provider = createQwenVL(model, { name: "qwen" });
  const general: ProviderV4 = provider;
  const language: LanguageModelV4 = provider();
  // @ts-expect-error a model is needed
  createQwenVL();
  const content = [{ type: "text" as const, text: "Who?" }];
  const { providerMetadata } = await general.languageModel(language.modelId).doGenerate({ prompt: [{ role: "user", content }] });
  const metadata = providerMetadata?.["qwenVL"] as unknown as QwenVLMetadata;
  return metadata.objects;
}
