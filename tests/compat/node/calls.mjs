// Makes every call of the Node SDK, and the documented ones by fetch, and prints what came as JSON.
//
//     node calls.mjs http://127.0.0.1:8000/v1 picture.jpg
//
// Each call is made for itself: {"name": {"value": ...}} or {"name": {"error": "..."}}.

import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';

const { vl } = createRequire(import.meta.url)('moondream');

const [endpoint, picture] = process.argv.slice(2);
const image = await readFile(picture);
const imageUrl = `data:image/jpeg;base64,${image.toString('base64')}`;
const model = new vl({ endpoint });

async function collect(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

async function post(path, body, headers = {}) {
  const answer = await fetch(endpoint + path, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', ...headers },
    body: JSON.stringify(body),
  });
  return { status: answer.status, body: await answer.json() };
}

const calls = {
  methods: async () => Object.getOwnPropertyNames(vl.prototype),
  caption: () => model.caption({ image }),
  caption_length: () => model.caption({ image, length: 'short', variant: 'any' }),
  caption_encoded: () => model.caption({ image: { imageUrl } }),
  caption_stream: async () => collect((await model.caption({ image, stream: true })).caption),
  query: () => model.query({ image, question: 'What shape is this?' }),
  query_without_image: () => model.query({ question: 'What is red?' }),
  query_reasoning: () => model.query({ image, question: 'What is this?', reasoning: true }),
  query_no_reasoning: () => model.query({ image, question: 'What is this?', reasoning: false }),
  query_stream: async () =>
    collect((await model.query({ image, question: 'What is this?', stream: true })).answer),
  detect: () => model.detect({ image, object: 'shape' }),
  point: () => model.point({ image, object: 'shape' }),
  segment: () =>
    model.segment({ image, object: 'shape', spatialRefs: [[0.5, 0.5]], settings: { max_tokens: 64 } }),
  segment_stream: async () =>
    collect((await model.segment({ image, object: 'shape', stream: true })).stream),
  refused: () => model.caption({ image: { imageUrl: 'https://example.com/a.jpg' } }),
  fetch_query: () =>
    post('/query', { image_url: imageUrl, question: 'What shape is this?' }, { 'X-Moondream-Auth': 'key' }),
  fetch_detect: () => post('/detect', { image_url: imageUrl, object: 'shape', stream: false }),
};

const seen = {};
for (const [name, call] of Object.entries(calls)) {
  try {
    seen[name] = { value: await call() };
  } catch (error) {
    seen[name] = { error: String(error.message ?? error) };
  }
}
console.log(JSON.stringify(seen));
