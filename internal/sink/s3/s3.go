// Package s3 keeps the objects of an archive in an S3 bucket, or in any server
// that speaks S3.
package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	managertypes "github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"github.com/ropewalk/ropewalk/internal/archive"
)

// Settings say where and how objects are kept. Credentials come from the SDK's
// own chain: environment, files, IRSA, instance roles.
type Settings struct {
	Bucket string
	// Prefix precedes every key; empty, or ending with "/".
	Prefix string
	// Region and Endpoint may be empty: then the SDK's own settings count.
	Region   string
	Endpoint string
	// PathStyle puts the bucket into the path instead of the host's name.
	PathStyle bool
	// Encryption is "", "AES256" or "aws:kms"; KMSKey goes with the last.
	Encryption string
	KMSKey     string
	// Tags are set on every object.
	Tags map[string]string
	// Patience is how long a server may take for one try of a request, or
	// between two pieces of an object that is read; 0 is [DefaultPatience].
	Patience time.Duration
	// Count, if set, is told of every request that was answered.
	Count func(operation string)
}

// DefaultPatience is enough for a part of a large object over a slow line.
const DefaultPatience = time.Minute

// Bucket keeps objects. It is safe for concurrent use.
type Bucket struct {
	settings Settings
	client   *s3.Client
	manager  *transfermanager.Client
	tags     *string
}

// New returns a store on a bucket. It reaches nothing yet but, where the
// credentials' chain asks for it, the machine's metadata.
func New(ctx context.Context, settings Settings) (*Bucket, error) {
	if settings.Patience == 0 {
		settings.Patience = DefaultPatience
	}
	options := []func(*config.LoadOptions) error{}
	if settings.Region != "" {
		options = append(options, config.WithRegion(settings.Region))
	}
	loaded, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("read the AWS settings: %w", err)
	}
	if loaded.Region == "" {
		loaded.Region = "us-east-1" // what servers that are not AWS take, too
	}
	client := s3.NewFromConfig(loaded, func(o *s3.Options) {
		o.UsePathStyle = settings.PathStyle
		if settings.Endpoint != "" {
			o.BaseEndpoint = aws.String(settings.Endpoint)
		}
		// Not every server that speaks S3 knows the newer checksums.
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		o.APIOptions = append(o.APIOptions, impatient(settings.Patience))
		if settings.Count != nil {
			o.APIOptions = append(o.APIOptions, counting(settings.Count))
		}
	})
	b := &Bucket{settings: settings, client: client, manager: transfermanager.New(client, func(o *transfermanager.Options) {
		o.PartSizeBytes, o.Concurrency = partBytes, 2
	})}
	if len(settings.Tags) > 0 {
		tags := url.Values{}
		for name, value := range settings.Tags {
			tags.Set(name, value)
		}
		b.tags = aws.String(tags.Encode())
	}
	return b, nil
}

// partBytes is the size of the parts of a large object: 10,000 of them are the
// most, so that an object may have 160 GiB.
const partBytes = 16 << 20

// Put writes an object, in parts if it is large.
func (b *Bucket) Put(ctx context.Context, key string, body io.Reader, size int64) error {
	if size > partBytes {
		input := &transfermanager.UploadObjectInput{
			Bucket: aws.String(b.settings.Bucket), Key: aws.String(b.settings.Prefix + key), Body: body, Tagging: b.tags,
			ServerSideEncryption: managertypes.ServerSideEncryption(b.settings.Encryption),
		}
		if b.settings.KMSKey != "" {
			input.SSEKMSKeyID = aws.String(b.settings.KMSKey)
		}
		_, err := b.manager.UploadObject(ctx, input)
		return err
	}
	// The body is signed, so that it must be one that can be read twice.
	whole, err := io.ReadAll(io.LimitReader(body, size+1))
	if err == nil && int64(len(whole)) != size {
		err = fmt.Errorf("%d bytes came instead of %d", len(whole), size)
	}
	if err != nil {
		return err
	}
	input := &s3.PutObjectInput{
		Bucket: aws.String(b.settings.Bucket), Key: aws.String(b.settings.Prefix + key), Body: strings.NewReader(string(whole)),
		ContentLength: aws.Int64(size), Tagging: b.tags, ServerSideEncryption: types.ServerSideEncryption(b.settings.Encryption),
		ContentType: aws.String("application/zstd"),
	}
	if b.settings.KMSKey != "" {
		input.SSEKMSKeyId = aws.String(b.settings.KMSKey)
	}
	_, err = b.client.PutObject(ctx, input)
	return err
}

// Get reads an object.
func (b *Bucket) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	return b.get(ctx, key, nil)
}

// GetFrom reads an object from an offset on, from its end if that is negative.
func (b *Bucket) GetFrom(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	if offset < 0 {
		return b.get(ctx, key, aws.String(fmt.Sprintf("bytes=%d", offset)))
	}
	return b.get(ctx, key, aws.String(fmt.Sprintf("bytes=%d-", offset)))
}

func (b *Bucket) get(ctx context.Context, key string, within *string) (io.ReadCloser, error) {
	ctx, hangUp := context.WithCancelCause(ctx)
	watchdog := time.AfterFunc(b.settings.Patience, func() { hangUp(errHanging) })
	output, err := b.client.GetObject(ctx, &s3.GetObjectInput{
		Bucket: aws.String(b.settings.Bucket), Key: aws.String(b.settings.Prefix + key), Range: within,
	})
	if err != nil {
		watchdog.Stop()
		defer hangUp(nil)
		if errors.Is(context.Cause(ctx), errHanging) {
			return nil, errHanging
		}
		return nil, missing(err)
	}
	return &watched{ctx, output.Body, watchdog, b.settings.Patience, hangUp}, nil
}

// missing tells an object that is not there from other troubles. A bucket that
// is not there is trouble.
func missing(err error) error {
	var api smithy.APIError
	if errors.As(err, &api) && (api.ErrorCode() == "NoSuchKey" || api.ErrorCode() == "NotFound") {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}

// List lists objects.
func (b *Bucket) List(ctx context.Context, prefix string) ([]archive.Object, error) {
	pages := s3.NewListObjectsV2Paginator(b.client, &s3.ListObjectsV2Input{
		Bucket: aws.String(b.settings.Bucket), Prefix: aws.String(b.settings.Prefix + prefix),
	})
	var objects []archive.Object
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, object := range page.Contents {
			key, ok := strings.CutPrefix(aws.ToString(object.Key), b.settings.Prefix)
			if ok {
				objects = append(objects, archive.Object{Key: key, Size: aws.ToInt64(object.Size), Modified: aws.ToTime(object.LastModified)})
			}
		}
	}
	return objects, nil
}

// mostDeletes is how many objects one request may remove.
const mostDeletes = 1000

// Delete removes objects.
func (b *Bucket) Delete(ctx context.Context, keys []string) error {
	for start := 0; start < len(keys); start += mostDeletes {
		var batch []types.ObjectIdentifier
		for _, key := range keys[start:min(start+mostDeletes, len(keys))] {
			batch = append(batch, types.ObjectIdentifier{Key: aws.String(b.settings.Prefix + key)})
		}
		output, err := b.client.DeleteObjects(ctx, &s3.DeleteObjectsInput{
			Bucket: aws.String(b.settings.Bucket), Delete: &types.Delete{Objects: batch, Quiet: aws.Bool(true)},
		})
		if err != nil {
			return err
		}
		for _, failed := range output.Errors {
			if code := aws.ToString(failed.Code); code != "NoSuchKey" {
				return fmt.Errorf("delete %s: %s: %s", aws.ToString(failed.Key), code, aws.ToString(failed.Message))
			}
		}
	}
	return nil
}

// Ready asks whether the bucket can be reached with these credentials.
func (b *Bucket) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := b.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{
		Bucket: aws.String(b.settings.Bucket), Prefix: aws.String(b.settings.Prefix), MaxKeys: aws.Int32(1),
	})
	if err != nil {
		return fmt.Errorf("reach bucket %s: %w", b.settings.Bucket, err)
	}
	return nil
}
