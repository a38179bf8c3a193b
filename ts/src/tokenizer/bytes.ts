// The byte alphabet of byte-level tokenizers: each of the 256 bytes stands in the vocabulary as one printable
// character (GPT-2). Printable Latin-1 stands for itself, the rest moves to U+0100 and above in order.

const isPrintable = (byte: number): boolean =>
  (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff)

/** The character of each byte. */
export const byteCharacters: readonly string[] = (() => {
  let moved = 0
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPrintable(byte) ? byte : 0x100 + moved++))
})()

const byteOfCode = new Int16Array(0x200).fill(-1)
byteCharacters.forEach((character, byte) => {
  byteOfCode[character.charCodeAt(0)] = byte
})

/** UTF-8 of a text. */
export const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text)

/** The bytes that a token stands for; a token with other characters (an added one) stands for its own UTF-8. */
export function bytesOfToken(token: string): Uint8Array {
  const bytes = new Uint8Array(token.length)
  for (let i = 0; i < token.length; i++) {
    const byte = byteOfCode[token.charCodeAt(i)] ?? -1
    if (byte < 0) return utf8(token)
    bytes[i] = byte
  }
  return bytes
}
