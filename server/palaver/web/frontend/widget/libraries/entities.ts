/**
 * In place of the package `entities`, whose table of all 2,231 names would be a third of the widget: the
 * names that people and models write. Others are shown as they are.
 */

const NAMED: Record<string, string> = {
  amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", shy: "\u00ad",
  copy: "©", reg: "®", trade: "™", sect: "§", para: "¶", deg: "°", hellip: "…", bull: "•", middot: "·",
  ndash: "–", mdash: "—", lsquo: "‘", rsquo: "’", sbquo: "‚", ldquo: "“", rdquo: "”", bdquo: "„",
  laquo: "«", raquo: "»", iexcl: "¡", iquest: "¿", dagger: "†", permil: "‰", prime: "′", Prime: "″",
  euro: "€", pound: "£", yen: "¥", cent: "¢", times: "×", divide: "÷", plusmn: "±", minus: "−",
  frac12: "½", frac14: "¼", frac34: "¾", sup1: "¹", sup2: "²", sup3: "³", micro: "µ", infin: "∞",
  le: "≤", ge: "≥", ne: "≠", asymp: "≈", equiv: "≡", larr: "←", rarr: "→", uarr: "↑", darr: "↓", harr: "↔",
  check: "✓", cross: "✗", star: "☆", hearts: "♥", sum: "∑", radic: "√", pi: "π", alpha: "α", beta: "β",
};

/** Decode one named entity, such as `&amp;`; return what is none of the known ones as it is. */
export function decodeHTML(entity: string): string {
  const name = /^&(\w+);$/.exec(entity)?.[1] ?? "";
  return Object.hasOwn(NAMED, name) ? (NAMED[name] ?? entity) : entity;
}

export const decodeHTMLStrict = decodeHTML;
