// What each script uses: names of checks, which become the table of docs/clients.md.
const done = [];

export function check(name, ok, seen) {
  if (!ok) throw new Error(`${name}: ${JSON.stringify(seen)}`);
  if (!done.includes(name)) done.push(name);
}

export function report() {
  console.log(JSON.stringify(done));
}
