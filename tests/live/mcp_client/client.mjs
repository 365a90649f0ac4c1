// The official TypeScript client, against a server of a test: node client.mjs URL. Prints JSON.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { ElicitRequestSchema } from "@modelcontextprotocol/sdk/types.js";

const url = new URL(process.argv[2]);
const authorization = process.env.PALAVER_AUTHORIZATION;
const requestInit = authorization ? { headers: { Authorization: authorization } } : {};
const found = { asked: [], progress: [] };

const client = new Client(
  { name: "test", version: "1" },
  { capabilities: { elicitation: { form: {} } } },
);
client.setRequestHandler(ElicitRequestSchema, async (request) => {
  found.asked.push(request.params.message);
  return { action: "accept", content: { answer: "tea" } };
});

const transport = new StreamableHTTPClientTransport(url, { requestInit });
await client.connect(transport);
found.session = typeof transport.sessionId;
found.version = client.getServerVersion().name;
found.tools = (await client.listTools()).tools.map((tool) => tool.name);
found.resources = (await client.listResources()).resources.map((each) => each.name);
found.said = await client.callTool(
  { name: "parrot", arguments: { text: "hello there" } },
  undefined,
  { onprogress: (progress) => found.progress.push(progress.progress) },
);
found.answered = await client.callTool({ name: "waiter", arguments: { text: "a drink" } });
found.structured = await client.callTool({ name: "forecast", arguments: { town: "Rome" } });
found.wrong = await client.callTool({ name: "parrot", arguments: { colour: "red" } });
found.unknown = await client
  .callTool({ name: "nobody", arguments: {} })
  .catch((error) => ({ code: error.code }));

const controller = new AbortController();
const cancelled = client
  .callTool({ name: "scripted", arguments: { text: "x" } }, undefined, {
    signal: controller.signal,
    onprogress: () => controller.abort("enough"),
  })
  .catch((error) => String(error));
found.cancelled = await cancelled;
await client.ping(); // closing would end the request that carries the notification
await client.close();
process.stdout.write(JSON.stringify(found));
