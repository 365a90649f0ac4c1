/** In place of the package `punycode.js`: a browser encodes the host of a link by itself. */

const unchanged = (host: string): string => host;

export default { toASCII: unchanged, toUnicode: unchanged };
