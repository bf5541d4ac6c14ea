// Runs an ONNX file in onnxruntime-web (WebAssembly) under node; files and arguments as in common.py, after the
// folder of packages.
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";

const REPEATS = 5;
const [packages, model, inputs, outputs] = process.argv.slice(2);
const ort = createRequire(path.join(packages, "package.json"))("onnxruntime-web");
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";

function toList(tensor) {
  const rows = Array.from(tensor.data, Number);
  const nest = (dims, start, size) =>
    dims.length === 1
      ? rows.slice(start, start + dims[0])
      : Array.from({ length: dims[0] }, (_, i) => nest(dims.slice(1), start + (i * size) / dims[0], size / dims[0]));
  return nest(tensor.dims, 0, rows.length);
}

const session = await ort.InferenceSession.create(fs.readFileSync(model), { executionProviders: ["wasm"] });
for (const file of fs.readdirSync(inputs).filter((name) => name.endsWith(".u8"))) {
  const stem = path.basename(file, ".u8");
  const data = new Uint8Array(fs.readFileSync(path.join(inputs, file)));
  const images = new ort.Tensor("uint8", data, [...stem.split("x").map(Number), 3]);
  const results = await session.run({ images });
  const seconds = [];
  for (let i = 0; i < REPEATS; i++) {
    const start = process.cpuUsage();
    await session.run({ images });
    const used = process.cpuUsage(start);
    seconds.push((used.user + used.system) / 1e6);
  }
  const document = Object.fromEntries(session.outputNames.map((name) => [name, toList(results[name])]));
  document.seconds = seconds.sort((a, b) => a - b)[REPEATS >> 1];
  fs.writeFileSync(path.join(outputs, `${stem}.json`), JSON.stringify(document));
}
