// Runs the official client against a server, as the first argument (JSON) says, and prints what it has
// then: its messages, its state, the open interrupts, and what the protocol's schemas refuse.
import { HttpAgent } from "@ag-ui/client";
import { checkedFetch, refused } from "./checked_fetch.js";

const scenario = JSON.parse(process.argv[2]);
const events = [];
const warnings = [];
console.warn = (...words) => warnings.push(words.join(" "));

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
  if (run.result !== undefined) {
    const called = agent.messages.flatMap((each) => each.toolCalls ?? []).at(-1);
    agent.addMessage({ id: `${run.runId}-result`, role: "tool", toolCallId: called.id, content: run.result });
  }
  let resume = run.resume;
  if (run.answer !== undefined || run.cancel) {
    const answer = run.cancel ? { status: "cancelled" } : { status: "resolved", payload: run.answer };
    resume = agent.pendingInterrupts.map(({ id }) => ({ interruptId: id, ...answer }));
  }
  try {
    const outcome = await agent.runAgent(
      { runId: run.runId, ...(resume && { resume }), ...(run.tools && { tools: run.tools }), ...(run.forwardedProps && { forwardedProps: run.forwardedProps }) },
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
