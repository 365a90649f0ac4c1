/** In place of the package `mdurl`: the browser takes addresses apart by itself. */

interface Address {
  url: string;
  /** markdown-it encodes one with punycode; a browser does that. */
  hostname: "";
}

export function parse(url: string): Address {
  return { url, hostname: "" };
}

export function format({ url }: Address): string {
  return url;
}

/** Encode what an address cannot have; what is encoded stays so. */
export function encode(url: string): string {
  return url.toWellFormed().replaceAll(/%(?![\da-f]{2})|[^\x21-\x7e]|["<>\\^`{|}]/giu, encodeURIComponent);
}

/** Decode an address for people, as far as it is valid. */
export function decode(url: string): string {
  return url.replaceAll(/(?:%[\da-f]{2})+/gi, (part) => {
    try {
      return decodeURI(part);
    } catch {
      return part;
    }
  });
}

decode.defaultChars = "";
