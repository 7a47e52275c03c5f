// OpenAI's client for JavaScript: chats, streams, calls tools, parses schemas, sees images, knows errors.
const { OpenAI, NotFoundError, BadRequestError } = require("openai");
const client = new OpenAI({ baseURL: process.env.URL, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Hello there" }];
const place = { model: "demo", messages, temperature: 0, max_tokens: 300, reasoning_effort: "none" };
const { tool, schema, image } = JSON.parse(process.env.GIVEN);
(async () => {
  const found = {};
  found.whole = (await client.chat.completions.create(place)).choices[0].message.content;
  found.streamed = "";
  for await (const chunk of await client.chat.completions.create({ ...place, stream: true }))
    found.streamed += chunk.choices[0]?.delta.content ?? "";
  found.tool = (await client.chat.completions.stream({ ...place, tools: [tool], tool_choice: "required" })
    .finalChatCompletion()).choices[0].message.tool_calls[0].function;
  const form = { type: "json_schema", json_schema: { name: "person", schema, strict: true } };
  found.person = (await client.chat.completions.parse({ ...place, response_format: form })).choices[0].message.parsed;
  const parts = [{ type: "image_url", image_url: { url: image } }];
  found.tokens = (await client.chat.completions.create({ ...place, max_tokens: 2, messages: [{ role: "user",
    content: parts }] })).usage.prompt_tokens;
  found.response = (await client.responses.create({ model: "demo", input: "Hello", max_output_tokens: 8 })).status;
  found.errors = [];
  for (const wrong of [{ model: "other" }, { temperature: -1 }])
    await client.chat.completions.create({ ...place, ...wrong }).catch((error) => found.errors.push(
      error instanceof NotFoundError ? "not found" : error instanceof BadRequestError ? error.param : String(error)));
  console.log(JSON.stringify(found));
})();
