package s3

import (
	"errors"
	"net"
	"strings"

	"github.com/aws/smithy-go"
)

// ToDo says what to do about an error of a bucket.
func ToDo(err error) string {
	var (
		api     smithy.APIError
		network net.Error
	)
	switch {
	case errors.As(err, &api):
		switch api.ErrorCode() {
		case "NoSuchBucket":
			return "Create the bucket, or name the right one in ROPEWALK_LOG_ARCHIVE or ZENML_AWS_KUBERNETES_WORKLOAD_MANAGER_BUCKET."
		case "AccessDenied", "Forbidden", "AllAccessDisabled":
			return "Allow these credentials s3:PutObject, s3:GetObject and s3:DeleteObject on the objects, s3:ListBucket on the bucket, and the use of its KMS key if it has one."
		case "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken":
			return "Give the dispatcher and the logshipper valid credentials: a role for their service account, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
		case "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException":
			return "Set ZENML_AWS_KUBERNETES_WORKLOAD_MANAGER_REGION to the region of the bucket."
		}
	case strings.Contains(err.Error(), "get credentials"), strings.Contains(err.Error(), "retrieve credentials"), strings.Contains(err.Error(), "no EC2 IMDS role found"):
		return "Give the dispatcher and the logshipper credentials: a role for their service account, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
	case errors.As(err, &network):
		return "Check ROPEWALK_S3_ENDPOINT and that the network lets this machine reach it."
	}
	return "Check the bucket, ROPEWALK_S3_ENDPOINT and ROPEWALK_S3_PATH_STYLE."
}
