// The vectors of docs/protocol.md: its marked code blocks, so that page and code cannot drift apart.

const PAGE = new URL("../../../docs/protocol.md", import.meta.url);
const BLOCK = /^```(hex|json) (vector|message|document)=(\S+)\n([\s\S]*?)^```$/gm;

export interface SpecBlock {
  language: "hex" | "json";
  mark: "vector" | "message" | "document";
  name: string;
  text: string;
}

export function readSpecBlocks(): SpecBlock[] {
  const page = Deno.readTextFileSync(PAGE);
  return [...page.matchAll(BLOCK)].map(([, language, mark, name, text]) =>
    ({ language, mark, name, text }) as SpecBlock
  );
}

export function specHex(name: string): Uint8Array {
  return fromHex(find("hex", "vector", name).text);
}

export function specJson(mark: SpecBlock["mark"], name: string): unknown {
  return JSON.parse(find("json", mark, name).text);
}

export function fromHex(text: string): Uint8Array {
  return Uint8Array.fromHex(text.replace(/\s+/g, ""));
}

function find(language: string, mark: string, name: string): SpecBlock {
  const blocks = readSpecBlocks().filter((block) =>
    block.language === language && block.mark === mark && block.name === name
  );
  if (blocks.length !== 1) {
    throw new Error(`docs/protocol.md has ${blocks.length} blocks '${language} ${mark}=${name}'`);
  }
  return blocks[0]!;
}
