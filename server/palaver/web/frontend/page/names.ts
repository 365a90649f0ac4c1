/** Names of skills and tools for people. */

/** Return a skill's name as people read it. */
export function titleOf(name: string): string {
  if (name.length <= 3) return name.toUpperCase();
  const words = name.replaceAll(/[-_]/g, " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}
