// A page that talks to the server with the official client, as CopilotKit does: messages, cards for calls of
// tools, a form for an interrupt, and its own state beside the server's.
import { HttpAgent } from "@ag-ui/client";

const options = new URLSearchParams(location.search);
const server = options.get("server");
const agent = new HttpAgent({
  url: `${server}/agui`,
  headers: { Authorization: `Bearer ${options.get("key")}` },
  threadId: options.get("thread"),
  initialState: { theme: "dark" },
});
const element = (id) => document.getElementById(id);

function draw() {
  element("messages").replaceChildren(
    ...agent.messages.flatMap((message) => [
      article(message.role, message.content ?? ""),
      ...(message.toolCalls ?? []).map((call) =>
        article("card", `${call.function.name} ${call.function.arguments}`),
      ),
    ]),
  );
  const [interrupt] = agent.pendingInterrupts;
  element("question").hidden = interrupt === undefined;
  if (interrupt === undefined) return;
  element("question").querySelector("p").textContent = interrupt.message;
  const isApproval = interrupt.toolCallId !== undefined;
  element("question").elements.answer.hidden = isApproval;
  element("question").querySelector("button:not([type])").hidden = isApproval;
  element("question").querySelector("pre").textContent = isApproval
    ? `${interrupt.metadata.tool} ${interrupt.metadata.shownArguments}`
    : "";
  const choices = isApproval
    ? [["Approve", { approved: true }], ["Deny", { approved: false }]]
    : (interrupt.responseSchema?.examples ?? []).map((choice) => [choice, choice]);
  element("question").querySelector("span").replaceChildren(
    ...choices.map(([label, payload]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = label;
      button.onclick = () => answer(payload);
      return button;
    }),
  );
}

function article(role, text) {
  const made = document.createElement("article");
  made.className = role;
  made.textContent = text;
  return made;
}

async function run(parameters = {}) {
  element("status").textContent = "running";
  try {
    await agent.runAgent(parameters, {
      onMessagesChanged: draw,
      onStateChanged: ({ state }) => (document.title = `${state.theme} ${state.palaver?.skill ?? ""}`),
      onRunErrorEvent: ({ event }) => (element("status").dataset.error = event.message),
    });
  } catch (error) {
    element("status").dataset.error = String(error);
  }
  draw();
  element("status").textContent = "idle";
}

function answer(payload) {
  const resume = agent.pendingInterrupts.map(({ id }) => ({
    interruptId: id,
    status: "resolved",
    payload,
  }));
  return run({ resume });
}

element("compose").onsubmit = (event) => {
  event.preventDefault();
  const input = event.target.elements.text;
  agent.addMessage({ id: crypto.randomUUID(), role: "user", content: input.value });
  input.value = "";
  draw();
  run();
};
element("question").onsubmit = (event) => {
  event.preventDefault();
  answer(event.target.elements.answer.value);
};
element("stop").onclick = () =>
  fetch(`${server}/agui/stop`, {
    method: "POST",
    headers: { ...agent.headers, "Content-Type": "application/json" },
    body: JSON.stringify({ threadId: agent.threadId }),
  });
run(); // the messages that the thread has already
