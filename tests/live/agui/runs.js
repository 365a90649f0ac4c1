// Runs the official client against a server, as the first argument (JSON) says, and prints what it has
// then: its messages, its state, the open interrupts, and what the protocol's schemas refuse.
import { HttpAgent } from "@ag-ui/client";
import { EventSchemas } from "@ag-ui/core/schemas";

const scenario = JSON.parse(process.argv[2]);
const refused = [];
const events = [];
const warnings = [];
console.warn = (...words) => warnings.push(words.join(" "));

// The client strips and repairs; the schemas see the bytes of the wire.
async function checkedFetch(url, options) {
  const response = await fetch(url, options);
  if (!response.ok || response.body === null) return response;
  const [own, others] = response.body.tee();
  check(own);
  return new Response(others, { status: response.status, headers: response.headers });
}

async function check(stream) {
  let text = "";
  const decoder = new TextDecoder();
  try {
    for await (const piece of stream) text += decoder.decode(piece, { stream: true });
  } catch {
    // the connection is lost
  }
  const blocks = text.split("\n\n").slice(0, -1);
  for (const block of blocks.filter((each) => !each.startsWith(":"))) {
    const event = JSON.parse(block.replace(/^data: /, ""));
    const parsed = EventSchemas.safeParse(event);
    if (!parsed.success) refused.push([event, parsed.error.issues]);
    else if (JSON.stringify(strip(parsed.data, event)) !== JSON.stringify(event)) {
      refused.push([event, "has fields that the schema does not know"]);
    }
  }
}

// The value with the order of the fields of another one, so that both can be compared as text.
function strip(value, like) {
  if (Array.isArray(value)) return value.map((each, at) => strip(each, like?.[at]));
  if (value === null || typeof value !== "object") return value;
  const keys = Object.keys(like ?? {});
  return Object.fromEntries(
    keys.filter((key) => key in value).map((key) => [key, strip(value[key], like[key])]),
  );
}

const agent = new HttpAgent({
  url: scenario.url,
  headers: scenario.headers ?? {},
  threadId: scenario.threadId,
  initialMessages: scenario.messages ?? [],
  initialState: scenario.state ?? {},
  fetch: checkedFetch,
});
const results = [];
for (const run of scenario.runs) {
  for (const message of run.messages ?? []) agent.addMessage(message);
  let resume = run.resume;
  if (run.answer !== undefined || run.cancel) {
    const answer = run.cancel ? { status: "cancelled" } : { status: "resolved", payload: run.answer };
    resume = agent.pendingInterrupts.map(({ id }) => ({ interruptId: id, ...answer }));
  }
  try {
    const outcome = await agent.runAgent(
      { runId: run.runId, ...(resume && { resume }), ...(run.forwardedProps && { forwardedProps: run.forwardedProps }) },
      {
        onEvent: ({ event }) => {
          events.push(event);
          if (run.abortAfter && JSON.stringify(event).includes(run.abortAfter)) agent.abortRun();
          if (run.announce && event.type === run.announce) console.log(JSON.stringify({ saw: event }));
        },
      },
    );
    results.push({ newMessages: outcome.newMessages });
  } catch (error) {
    results.push({ error: String(error.message ?? error) });
  }
}
await new Promise((resolve) => setTimeout(resolve, 0));
console.log(
  JSON.stringify({
    results,
    events,
    refused,
    warnings,
    messages: agent.messages,
    state: agent.state,
    interrupts: agent.pendingInterrupts ?? [],
  }),
);
