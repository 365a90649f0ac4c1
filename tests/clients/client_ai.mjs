// The AI SDK.
import { check, report } from "./checks.mjs";
// [docs
import { createOpenAI } from "@ai-sdk/openai";
import { generateText } from "ai";

const palaver = createOpenAI({ baseURL: process.env.OPENAI_BASE_URL }); // http://127.0.0.1:7252/v1
const { text } = await generateText({ model: palaver("auto"), prompt: "Hello" });
console.error(text);
// docs]
import { embedMany, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const weather = tool({
  description: "How warm it is in a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `15 degrees in ${city}`,
});
const schema = z.object({ name: z.string(), age: z.number().int() });
const name = "acme/tiny-1b";

check("Responses", text.length > 0, text);
for (const model of [palaver(name), palaver.chat(name)]) {
  const ran = await generateText({ model, tools: { weather }, stopWhen: stepCountIs(4), prompt: "The weather in Rome?" });
  check("agent loop", ran.text.includes("15 degrees"), ran.text);
  check("tools", ran.steps.length === 2, ran.steps.length);
  const streamed = streamText({ model, tools: { weather }, stopWhen: stepCountIs(4), prompt: "The weather in Rome?" });
  check("streams", (await streamed.text).includes("15 degrees"), await streamed.text);
  const found = await generateText({ model, output: Output.object({ schema }), prompt: "Who is Ada?" });
  check("structured output", found.output.name === "Ada", found.output);
}
for (const model of [palaver("agent"), palaver.chat("agent")]) {
  const ran = await generateText({ model, tools: { weather }, stopWhen: stepCountIs(4), prompt: "The weather in Rome?" });
  check("beside a skill's tools", ran.text.includes("15 degrees") && ran.steps.length === 2, ran.text);
}
check("Chat Completions", true);
const { embeddings } = await embedMany({ model: palaver.embeddingModel(name), values: ["a", "b"] });
check("embeddings", embeddings.length === 2, embeddings);
report();
