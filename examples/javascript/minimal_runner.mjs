// Stream a greedy answer of an artifact of target `onnx` in float32 with onnxruntime-node and @huggingface/tokenizers.
//
//   npm ci --ignore-scripts
//   node minimal_runner.mjs ARTIFACT PROMPT [MAX_NEW_TOKENS]
//
// PROMPT is a chat prompt, as the artifact's chat_template.jinja renders it. onnxruntime-node 1.30 has no
// `query_seqlens` of GroupQueryAttention, which a graph of target `ort-cpu` has, so the standard operators run here.
import { createHash } from "node:crypto";
import { createReadStream, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { Tokenizer } from "@huggingface/tokenizers";
import * as ort from "onnxruntime-node";

const CHUNK = 128; // tokens of a prompt in one step
const int64 = (numbers, shape) => new ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), shape);

async function check(folder) {
  const manifest = JSON.parse(readFileSync(join(folder, "exaone_export.json"), "utf8"));
  for (const [name, { sha256 }] of Object.entries(manifest.files)) {
    const hash = createHash("sha256");
    await pipeline(createReadStream(join(folder, name)), hash);
    if (hash.digest("hex") !== sha256) throw new Error(`${name} is not the file that was exported; export again.`);
  }
  if (manifest.target !== "onnx" || manifest.precision !== "float32")
    throw new Error(`the artifact is ${manifest.target}, ${manifest.precision}; export with --target onnx.`);
  return manifest;
}

function stopTokens(folder) {
  const path = join(folder, "generation_config.json");
  const config = JSON.parse(readFileSync(existsSync(path) ? path : join(folder, "config.json"), "utf8"));
  return new Set([config.eos_token_id ?? []].flat());
}

async function* generate(folder, prompt, maxNewTokens) {
  const manifest = await check(folder);
  const stops = stopTokens(folder);
  const room = manifest.cache.max_length - prompt.length;
  const session = await ort.InferenceSession.create(join(folder, "model.onnx"));
  // A graph of target `onnx` may not write what it reads: two sets of buffers take turns, and no step allocates one.
  const caches = session.inputMetadata.filter(({ name }) => name.startsWith("past_key_values."));
  const allocate = ({ name, shape: [, ...row] }) => [
    name.replace("past_key_values.", ""),
    new ort.Tensor("float32", new Float32Array(row.reduce((a, b) => a * b)), [1, ...row]),
  ];
  let [past, present] = [caches.map(allocate), caches.map(allocate)];
  const named = (prefix, tensors) => Object.fromEntries(tensors.map(([name, tensor]) => [prefix + name, tensor]));
  let held = 0;
  let step = prompt.slice(0, CHUNK);
  for (let made = 0; made < Math.min(maxNewTokens, room); made++) {
    let logits;
    while (step.length) {
      const feeds = {
        input_ids: int64(step, [1, step.length]),
        position_ids: int64(step.map((_, i) => held + i), [1, step.length]),
        attention_mask: int64([(held += step.length)], [1, 1]), // the count; a mask of ones sums to it
        logits_to_keep: int64([0], [1]), // of the step's last token only
        ...named("past_key_values.", past),
      };
      ({ logits } = await session.run(feeds, { logits: null, ...named("present.", present) }));
      [past, present] = [present, past];
      step = prompt.slice(held, held + CHUNK);
    }
    const token = logits.data.reduce((best, value, i) => (value > logits.data[best] ? i : best), 0);
    if (stops.has(token)) return;
    yield token;
    step = [token];
  }
}

const [folder, prompt, maxNewTokens = "256"] = process.argv.slice(2);
const read = (name) => JSON.parse(readFileSync(join(folder, name), "utf8"));
const tokenizer = new Tokenizer(read("tokenizer.json"), read("tokenizer_config.json"));
const { ids } = tokenizer.encode(prompt, { add_special_tokens: false });
const answer = [];
let shown = "";
for await (const token of generate(folder, ids, Number(maxNewTokens))) {
  answer.push(token);
  const text = tokenizer.decode(answer, { skip_special_tokens: true });
  if (text.endsWith("\ufffd")) continue; // a character may take several tokens
  process.stdout.write(text.slice(shown.length));
  shown = text;
}
process.stdout.write("\n");
