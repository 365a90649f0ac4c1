/** The sound of a new reply: made by the browser, without a file. */

const SECONDS = 0.25;
const HERTZ = [660, 880];
const VOLUME = 0.08;

let context: AudioContext | null = null;

/** Play two short notes; nothing where the browser forbids sound. */
export function playSound(): void {
  context ??= new AudioContext();
  const gain = context.createGain();
  gain.gain.setValueAtTime(VOLUME, context.currentTime);
  gain.gain.exponentialRampToValueAtTime(0.001, context.currentTime + SECONDS);
  gain.connect(context.destination);
  HERTZ.forEach((frequency, index) => {
    const oscillator = new OscillatorNode(context as AudioContext, { frequency });
    const start = (context as AudioContext).currentTime + (index * SECONDS) / HERTZ.length;
    oscillator.connect(gain);
    oscillator.start(start);
    oscillator.stop(start + SECONDS / HERTZ.length);
  });
}
