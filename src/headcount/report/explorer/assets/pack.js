// What headcount/explorer/packing.py packs: base64 of gzip of JSON and the arrays that it names.

const ARRAYS = { float32: Float32Array, int32: Int32Array };

export async function unpack(text) {
  const characters = atob(text);
  const compressed = new Uint8Array(characters.length);
  for (let i = 0; i < characters.length; i++) compressed[i] = characters.charCodeAt(i);
  const stream = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const data = await new Response(stream).arrayBuffer();
  const length = new DataView(data).getUint32(0, true);
  const json = new TextDecoder().decode(new Uint8Array(data, 4, length));
  const start = 4 + length;
  return JSON.parse(json, (_, value) =>
    value?.dtype ? new ARRAYS[value.dtype](data, start + value.at, value.length) : value,
  );
}

export function unpackElement(id) {
  return unpack(document.getElementById(id).textContent);
}
