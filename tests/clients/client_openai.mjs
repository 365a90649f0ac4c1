// OpenAI's own library for JavaScript.
import { check, report } from "./checks.mjs";
// [docs
import OpenAI from "openai";

const client = new OpenAI(); // OPENAI_BASE_URL=http://127.0.0.1:7252/v1
const answer = await client.responses.create({ model: "auto", input: "Hello" });
console.error(answer.output_text);
// docs]
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const model = "acme/tiny-1b";
const tools = [{ type: "function", name: "weather", strict: false,
  parameters: { type: "object", properties: { city: { type: "string" } } } }];

check("Responses", answer.output_text.length > 0, answer);
const chat = await client.chat.completions.create({ model: "auto", messages: [{ role: "user", content: "Hello" }] });
check("Chat Completions", chat.choices[0].message.content.length > 0, chat);
const stream = client.responses.stream({ model, input: "The weather in Rome?", tools });
const first = await stream.finalResponse();
check("streams", first.output[0].type === "function_call", first);
const output = [{ type: "function_call_output", call_id: first.output[0].call_id, output: "15 degrees" }];
const second = await client.responses.create({ model, input: output, tools, previous_response_id: first.id });
check("tools", second.output_text.includes("15 degrees"), second);
const asked = await client.responses.create({ model: "agent", input: "Pay 5" });
const request = asked.output.at(-1);
const approval = { type: "mcp_approval_response", approval_request_id: request.id, approve: true };
const paid = await client.responses.create({ model: "agent", input: [approval] });
check("approvals", paid.output[0].output === "paid 5", paid);
const Person = z.object({ name: z.string(), age: z.number().int() });
const parsed = await client.responses.parse({ model, input: "Who is Ada?", text: { format: zodTextFormat(Person, "person") } });
check("structured output", parsed.output_parsed.name === "Ada" && parsed.output_parsed.age === 36, parsed);
for (const each of [model, "agent"]) {
const runner = client.chat.completions.runTools({
  model: each,
  messages: [{ role: "user", content: "The weather in Rome?" }],
  tools: [{ type: "function", function: {
    name: "weather", description: "How warm it is.", parse: JSON.parse,
    parameters: { type: "object", properties: { city: { type: "string" } } },
    function: ({ city }) => `15 degrees in ${city}`,
  } }],
});
const ran = await runner.finalContent();
check(each === model ? "agent loop" : "beside a skill's tools", ran.includes("15 degrees"), ran);
}
const vectors = await client.embeddings.create({ model, input: ["a", "b"] });
check("embeddings", vectors.data.length === 2 && vectors.data[0].embedding.length === 2, vectors);
const background = await client.responses.create({ model: "auto", input: "Hello", background: true });
let last;
for await (const event of await client.responses.retrieve(background.id, { stream: true, starting_after: 0 })) last = event;
check("background", last.type === "response.completed", last);
const names = [];
for await (const each of client.models.list()) names.push(each.id);
check("models", names.includes("auto"), names);
report();
