// Command awsv2 puts, reads, lists, copies and deletes one object of every name given as JSON on standard input, with
// aws-sdk-go-v2 and its upload manager. Arguments: endpoint, bucket. The first difference ends it with code 1.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"sort"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/feature/s3/manager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

func must(err error, what string) {
	if err != nil {
		fmt.Fprintln(os.Stderr, what+":", err)
		os.Exit(1)
	}
}

func equal(got, want []byte, what string) {
	if !bytes.Equal(got, want) {
		must(fmt.Errorf("%d bytes came, %d were stored, and they differ", len(got), len(want)), what)
	}
}

func read(client *s3.Client, bucket, key string) []byte {
	answer, err := client.GetObject(context.TODO(), &s3.GetObjectInput{Bucket: &bucket, Key: &key})
	must(err, "get "+key)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	must(err, "read "+key)
	return body
}

func list(client *s3.Client, bucket string) []string {
	found := []string{}
	pages := s3.NewListObjectsV2Paginator(client, &s3.ListObjectsV2Input{Bucket: &bucket, MaxKeys: aws.Int32(3)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(context.TODO())
		must(err, "list")
		for _, item := range page.Contents {
			found = append(found, *item.Key)
		}
	}
	return found
}

func large(client *s3.Client, bucket string) {
	body := bytes.Repeat([]byte("0123456789abcdef"), (11<<20)/16+1)
	uploader := manager.NewUploader(client, func(u *manager.Uploader) { u.PartSize = 5 << 20 })
	_, err := uploader.Upload(context.TODO(), &s3.PutObjectInput{
		Bucket: &bucket, Key: aws.String("large + %41"), Body: bytes.NewReader(body),
	})
	must(err, "multipart")
	buffer := manager.NewWriteAtBuffer(nil)
	_, err = manager.NewDownloader(client).Download(context.TODO(), buffer, &s3.GetObjectInput{
		Bucket: &bucket, Key: aws.String("large + %41"),
	})
	must(err, "ranged download")
	equal(buffer.Bytes(), body, "large")
	_, err = client.DeleteObject(context.TODO(), &s3.DeleteObjectInput{Bucket: &bucket, Key: aws.String("large + %41")})
	must(err, "delete large")
}

func presigned(client *s3.Client, bucket, key string, want []byte) {
	signed, err := s3.NewPresignClient(client).PresignGetObject(context.TODO(), &s3.GetObjectInput{Bucket: &bucket, Key: &key})
	must(err, "presign "+key)
	answer, err := http.Get(signed.URL)
	must(err, "by url "+key)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	must(err, "by url "+key)
	equal(body, want, "by url "+key)
}

func main() {
	endpoint, bucket := os.Args[1], os.Args[2]
	var keys []string
	must(json.NewDecoder(os.Stdin).Decode(&keys), "names")
	client := s3.New(s3.Options{
		BaseEndpoint: &endpoint, Region: "us-east-1", UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(
			os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), ""),
	})
	_, err := client.CreateBucket(context.TODO(), &s3.CreateBucketInput{Bucket: &bucket})
	must(err, "bucket")
	for _, key := range keys {
		body := []byte("body of " + key)
		_, err := client.PutObject(context.TODO(), &s3.PutObjectInput{
			Bucket: &bucket, Key: &key, Body: bytes.NewReader(body), Metadata: map[string]string{"name": "value"},
		})
		must(err, "put "+key)
		equal(read(client, bucket, key), body, key)
		presigned(client, bucket, key, body)
		source := bucket + "/" + strings.ReplaceAll(url.QueryEscape(key), "+", "%20")
		_, err = client.CopyObject(context.TODO(), &s3.CopyObjectInput{Bucket: &bucket, Key: aws.String("copy"), CopySource: &source})
		must(err, "copy "+key)
		equal(read(client, bucket, "copy"), body, "copy of "+key)
	}
	want := append([]string{"copy"}, keys...)
	sort.Strings(want)
	if got := list(client, bucket); strings.Join(got, "\n") != strings.Join(want, "\n") {
		must(fmt.Errorf("%q, not %q", got, want), "list")
	}
	large(client, bucket)
	entries := []types.ObjectIdentifier{}
	for index := range want {
		entries = append(entries, types.ObjectIdentifier{Key: &want[index]})
	}
	gone, err := client.DeleteObjects(context.TODO(), &s3.DeleteObjectsInput{Bucket: &bucket, Delete: &types.Delete{Objects: entries}})
	must(err, "delete all")
	if len(gone.Deleted) != len(want) || len(gone.Errors) != 0 {
		must(fmt.Errorf("%d of %d", len(gone.Deleted), len(want)), "delete all")
	}
	_, err = client.DeleteBucket(context.TODO(), &s3.DeleteBucketInput{Bucket: &bucket})
	must(err, "delete bucket")
	fmt.Println(len(keys))
}
