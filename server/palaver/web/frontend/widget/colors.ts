/** Readable colours from one accent colour, whatever it is. */

type Rgb = [red: number, green: number, blue: number];

const MIN_CONTRAST = 4.5; // WCAG 2.2 AA
const STEPS = 20;
const BLACK: Rgb = [0, 0, 0];
const WHITE: Rgb = [255, 255, 255];
/** `--surface` of base.css, and the share of the accent in `--message` of widget.css. */
const SURFACES = { light: [255, 255, 255], dark: [31, 33, 36] } satisfies Record<string, Rgb>;
const SHARE_IN_MESSAGE = 0.14;

/** Return values of `--accent` and `--accent-text`; null for what is no colour. */
export function accentColors(color: string): { accent: string; text: string } | null {
  const accent = parseColor(color);
  if (!accent) return null;
  const light = mixUntilReadable(accent, SURFACES.light, BLACK);
  const dark = mixUntilReadable(accent, SURFACES.dark, WHITE);
  return {
    accent: `light-dark(${css(light)}, ${css(dark)})`,
    text: `light-dark(${css(textOn(light))}, ${css(textOn(dark))})`,
  };
}

/** Return the bytes of any CSS colour; null for what is none. */
function parseColor(color: string): Rgb | null {
  if (!CSS.supports("color", color)) return null;
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d");
  if (!context) return null;
  context.fillStyle = color;
  context.fillRect(0, 0, 1, 1);
  const [red = 0, green = 0, blue = 0, alpha = 0] = context.getImageData(0, 0, 1, 1).data;
  return alpha ? [red, green, blue] : null;
}

/** Mix a colour with another one until it can be read on a message, which it tints. */
function mixUntilReadable(color: Rgb, surface: Rgb, other: Rgb): Rgb {
  for (let step = 0; step < STEPS; step += 1) {
    const mixed = mix(color, other, step / STEPS);
    if (contrast(mixed, mix(surface, mixed, SHARE_IN_MESSAGE)) >= MIN_CONTRAST) return mixed;
  }
  return other;
}

function mix(one: Rgb, other: Rgb, share: number): Rgb {
  return one.map((value, index) => Math.round(value + ((other[index] ?? 0) - value) * share)) as Rgb;
}

function textOn(ground: Rgb): Rgb {
  return contrast(WHITE, ground) >= contrast(BLACK, ground) ? WHITE : BLACK;
}

function contrast(one: Rgb, other: Rgb): number {
  const [low = 0, high = 0] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

/** Return the relative luminance, as WCAG defines it. */
function luminance(color: Rgb): number {
  const [red, green, blue] = color.map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  }) as Rgb;
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function css(color: Rgb): string {
  return `rgb(${color.join(" ")})`;
}
