// LangChain for JavaScript.
import { check, report } from "./checks.mjs";
// [docs
import { ChatOpenAI } from "@langchain/openai";

const configuration = { baseURL: process.env.OPENAI_BASE_URL }; // http://127.0.0.1:7252/v1
const model = new ChatOpenAI({ model: "auto", configuration });
console.error((await model.invoke("Hello")).text);
// docs]
import { HumanMessage, ToolMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { OpenAIEmbeddings } from "@langchain/openai";
import { z } from "zod";

const name = "acme/tiny-1b";
const schema = z.object({ name: z.string(), age: z.number().int() });
const weather = tool(async ({ city }) => `15 degrees in ${city}`, {
  name: "weather", description: "How warm it is in a city.", schema: z.object({ city: z.string() }),
});

check("Chat Completions", (await model.invoke("Hello")).text.length > 0);
let streamed = "";
for await (const chunk of await model.stream("Hello")) streamed += chunk.text;
check("streams", streamed.length > 0, streamed);
async function act(made) {
  const able = made.bindTools([weather]);
  const asked = [new HumanMessage("The weather in Rome?")];
  const called = await able.invoke(asked);
  const [call] = called.tool_calls;
  const result = new ToolMessage({ content: await weather.invoke(call.args), tool_call_id: call.id });
  return able.invoke([...asked, called, result]);
}
for (const useResponsesApi of [false, true]) {
  const made = new ChatOpenAI({ model: name, configuration, useResponsesApi });
  const answer = await act(made);
  check("tools", answer.text.includes("15 degrees"), answer);
  const skilled = await act(new ChatOpenAI({ model: "agent", configuration, useResponsesApi }));
  check("beside a skill's tools", skilled.text.includes("15 degrees"), skilled);
  check(useResponsesApi ? "Responses" : "Chat Completions", answer.text.length > 0, answer);
  for (const method of ["jsonSchema", "functionCalling"]) {
    const person = await made.withStructuredOutput(schema, { method, name: "person" }).invoke("Who is Ada?");
    check("structured output", person.name === "Ada" && person.age === 36, person);
  }
}
const vectors = await new OpenAIEmbeddings({ model: name, configuration }).embedDocuments(["a", "b"]);
check("embeddings", vectors.length === 2 && vectors[0].length === 2, vectors);
report();
