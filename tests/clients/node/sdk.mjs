// The AWS SDK for JavaScript v3: one object of every name given as JSON on standard input, in bytes, as a stream, as a
// multipart upload and by presigned URL. Arguments: endpoint, bucket. The first difference ends it with code 1.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { Readable } from "node:stream";

const require = createRequire(process.env.TITANS3_NODE_MODULES + "/");
const {
  S3Client, CreateBucketCommand, PutObjectCommand, GetObjectCommand, CopyObjectCommand, DeleteObjectsCommand,
  DeleteObjectCommand, DeleteBucketCommand, HeadObjectCommand, paginateListObjectsV2,
} = require("@aws-sdk/client-s3");
const { Upload } = require("@aws-sdk/lib-storage");
const { getSignedUrl } = require("@aws-sdk/s3-request-presigner");

const [endpoint, Bucket] = process.argv.slice(2);
const keys = JSON.parse(readFileSync(0, "utf8"));
const client = new S3Client({
  endpoint, region: "us-east-1", forcePathStyle: true, maxAttempts: 1,
  credentials: { accessKeyId: process.env.AWS_ACCESS_KEY_ID, secretAccessKey: process.env.AWS_SECRET_ACCESS_KEY },
});
const read = async (Key, more = {}) => {
  const answer = await client.send(new GetObjectCommand({ Bucket, Key, ...more }));
  return Buffer.from(await answer.Body.transformToByteArray());
};

await client.send(new CreateBucketCommand({ Bucket }));
for (const Key of keys) {
  const body = Buffer.from("body of " + Key);
  await client.send(new PutObjectCommand({ Bucket, Key, Body: body, Metadata: { name: "value" } }));
  assert.deepEqual(await read(Key), body, Key);
  assert.deepEqual((await client.send(new HeadObjectCommand({ Bucket, Key }))).Metadata, { name: "value" });
  await client.send(new CopyObjectCommand({ Bucket, Key: "copy", CopySource: encodeURIComponent(`${Bucket}/${Key}`) }));
  assert.deepEqual(await read("copy"), body, "copy of " + Key);
  const put = await getSignedUrl(client, new PutObjectCommand({ Bucket, Key }), { expiresIn: 60 });
  assert.equal((await fetch(put, { method: "PUT", body: "by url " + Key })).status, 200, "put by url " + Key);
  const get = await getSignedUrl(client, new GetObjectCommand({ Bucket, Key }), { expiresIn: 60 });
  assert.equal(await (await fetch(get)).text(), "by url " + Key);
  // A stream goes with a trailing checksum, also without TLS.
  await client.send(new PutObjectCommand({ Bucket, Key, Body: Readable.from([body]), ContentLength: body.length }));
  assert.deepEqual(await read(Key), body, "stream of " + Key);
}
const want = ["copy", ...keys].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
const found = [];
for await (const page of paginateListObjectsV2({ client, pageSize: 3 }, { Bucket })) {
  found.push(...(page.Contents ?? []).map((item) => item.Key));
}
assert.deepEqual(found, want);

const large = Buffer.alloc(11 * 1024 * 1024 + 7, "0123456789abcdef");
const pieces = [large.subarray(0, 4000000), large.subarray(4000000)];
await new Upload({ client, params: { Bucket, Key: "large + %41", Body: Readable.from(pieces) }, partSize: 5 << 20 }).done();
assert.ok((await read("large + %41")).equals(large));
assert.ok((await read("large + %41", { Range: "bytes=5242870-5242890" })).equals(large.subarray(5242870, 5242891)));
await client.send(new DeleteObjectCommand({ Bucket, Key: "large + %41" }));
const gone = await client.send(new DeleteObjectsCommand({ Bucket, Delete: { Objects: want.map((Key) => ({ Key })) } }));
assert.equal(gone.Deleted.length, want.length);
await client.send(new DeleteBucketCommand({ Bucket }));
console.log(keys.length);
