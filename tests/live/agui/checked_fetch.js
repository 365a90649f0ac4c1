// A fetch that checks the events of each stream with the protocol's schemas: the client strips and repairs,
// the schemas see the bytes of the wire. `refused` has what they refuse.
import { EventSchemas } from "@ag-ui/core/schemas";

export const refused = [];

export async function checkedFetch(url, options) {
  const response = await fetch(url, options);
  if (!response.ok || response.body === null) return response;
  const body = response.body.pipeThrough(checker());
  return new Response(body, { status: response.status, headers: response.headers });
}

function checker() {
  const decoder = new TextDecoder();
  let text = "";
  return new TransformStream({
    transform(piece, controller) {
      const blocks = (text + decoder.decode(piece, { stream: true })).split("\n\n");
      text = blocks.pop();
      for (const block of blocks.filter((each) => !each.startsWith(":"))) check(block);
      controller.enqueue(piece);
    },
  });
}

function check(block) {
  const event = JSON.parse(block.replace(/^data: /, ""));
  const parsed = EventSchemas.safeParse(event);
  if (!parsed.success) refused.push([event, parsed.error.issues]);
  else if (JSON.stringify(strip(parsed.data, event)) !== JSON.stringify(event)) {
    refused.push([event, "has fields that the schema does not know"]);
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
