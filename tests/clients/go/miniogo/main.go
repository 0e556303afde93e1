// Command miniogo does with minio-go what awsv2 does with the AWS SDK, and composes an object out of others.
// Arguments: host and port, bucket; names as JSON on standard input. The first difference ends it with code 1.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

func must(err error, what string) {
	if err != nil {
		fmt.Fprintln(os.Stderr, what+":", err)
		os.Exit(1)
	}
}

func same(client *minio.Client, bucket, key string, want []byte) {
	object, err := client.GetObject(context.TODO(), bucket, key, minio.GetObjectOptions{})
	must(err, "get "+key)
	defer object.Close()
	got, err := io.ReadAll(object)
	must(err, "read "+key)
	if !bytes.Equal(got, want) {
		must(fmt.Errorf("%d bytes came, %d were stored, and they differ", len(got), len(want)), key)
	}
}

func names(client *minio.Client, bucket string, options minio.ListObjectsOptions) []string {
	found := []string{}
	options.Recursive = true
	for item := range client.ListObjects(context.TODO(), bucket, options) {
		must(item.Err, "list")
		found = append(found, item.Key)
	}
	return found
}

func main() {
	endpoint, bucket := os.Args[1], os.Args[2]
	var keys []string
	must(json.NewDecoder(os.Stdin).Decode(&keys), "names")
	client, err := minio.New(endpoint, &minio.Options{
		Creds: credentials.NewStaticV4(os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), ""),
	})
	must(err, "client")
	must(client.MakeBucket(context.TODO(), bucket, minio.MakeBucketOptions{}), "bucket")
	for _, key := range keys {
		body := []byte("body of " + key)
		_, err := client.PutObject(context.TODO(), bucket, key, bytes.NewReader(body), int64(len(body)), minio.PutObjectOptions{})
		must(err, "put "+key)
		same(client, bucket, key, body)
		_, err = client.CopyObject(context.TODO(), minio.CopyDestOptions{Bucket: bucket, Object: "copy"},
			minio.CopySrcOptions{Bucket: bucket, Object: key})
		must(err, "copy "+key)
		same(client, bucket, "copy", body)
	}
	want := append([]string{"copy"}, keys...)
	sort.Strings(want)
	for _, options := range []minio.ListObjectsOptions{{}, {UseV1: true}, {MaxKeys: 3}} {
		if got := names(client, bucket, options); strings.Join(got, "\n") != strings.Join(want, "\n") {
			must(fmt.Errorf("%q, not %q", got, want), "list")
		}
	}
	// A stream of unknown length goes as a multipart upload with signed chunks; composing copies its parts.
	large := bytes.Repeat([]byte("0123456789abcdef"), (11<<20)/16+1)
	_, err = client.PutObject(context.TODO(), bucket, "large + %41", io.MultiReader(bytes.NewReader(large)), -1,
		minio.PutObjectOptions{PartSize: 5 << 20})
	must(err, "multipart")
	same(client, bucket, "large + %41", large)
	part := minio.CopySrcOptions{Bucket: bucket, Object: "large + %41"}
	_, err = client.ComposeObject(context.TODO(), minio.CopyDestOptions{Bucket: bucket, Object: "twice"}, part, part)
	must(err, "compose")
	same(client, bucket, "twice", append(append([]byte{}, large...), large...))
	objects := make(chan minio.ObjectInfo)
	go func() {
		defer close(objects)
		for _, key := range append(want, "large + %41", "twice") {
			objects <- minio.ObjectInfo{Key: key}
		}
	}()
	for failed := range client.RemoveObjects(context.TODO(), bucket, objects, minio.RemoveObjectsOptions{}) {
		must(failed.Err, "remove "+failed.ObjectName)
	}
	must(client.RemoveBucket(context.TODO(), bucket), "remove bucket")
	fmt.Println(len(keys))
}
