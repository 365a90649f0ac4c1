// Official clients that talk until standard input ends, each in a thread of its own, and post a run again
// after a lost connection. Prints one line of JSON for each turn, then what every thread has in the end.
import { HttpAgent } from "@ag-ui/client";
import { checkedFetch, refused } from "./checked_fetch.js";

const { url, threads, seconds } = JSON.parse(process.argv[2]);
const RETRY_MILLISECONDS = 100;
console.warn = () => {}; // of streams that were cut off
process.on("unhandledRejection", (error) => {
  if (error.message !== "terminated") throw error; // the client throws that of a lost connection again
});
let isStopping = false;
process.stdin.on("end", () => (isStopping = true)).resume();
const print = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
const pause = () => new Promise((resolve) => setTimeout(resolve, RETRY_MILLISECONDS));

// Run until the run has finished, for some seconds; return how often it was posted, and the snapshots.
async function runToEnd(agent, runId) {
  const end = Date.now() + 1000 * seconds;
  const seen = { posts: 0, snapshots: 0, outcome: null };
  while (Date.now() < end && seen.outcome === null) {
    seen.posts += 1;
    const abort = setTimeout(() => agent.abortRun(), Math.max(0, end - Date.now()));
    try {
      await agent.runAgent(
        { runId },
        {
          onMessagesSnapshotEvent: () => void (seen.snapshots += 1),
          onRunFinishedEvent: ({ event }) => void (seen.outcome = event.outcome),
        },
      );
    } catch {
      // the connection is lost, or nobody listens
    }
    clearTimeout(abort);
    if (seen.outcome === null) await pause();
  }
  return seen;
}

async function talk(threadId) {
  const agent = new HttpAgent({ url, threadId, fetch: checkedFetch });
  for (let number = 1; !isStopping; number += 1) {
    const text = `${threadId} ${number}`;
    const before = agent.messages.length;
    agent.addMessage({ id: `m-${number}`, role: "user", content: text });
    const seen = await runToEnd(agent, `r-${number}`);
    print({ text, ...seen, messages: agent.messages.slice(before) });
  }
}

async function restore(threadId) {
  const agent = new HttpAgent({ url, threadId, fetch: checkedFetch });
  await runToEnd(agent, "restored");
  return [threadId, agent.messages];
}

const names = Array.from({ length: threads }, (_, number) => `thread-${number}`);
await Promise.all(names.map(talk));
const restored = Object.fromEntries(await Promise.all(names.map(restore)));
print({ restored, refused });
