package gcplogtest

import (
	"regexp"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/logging/apiv2/loggingpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// filter is as much of the service's language as is used: comparisons joined by
// AND.
type filter []condition

type condition struct{ field, operator, value string }

var conditionPattern = regexp.MustCompile(`^([a-zA-Z_.]+(?:"[^"]+")?)(>=|<|=|:)(\*|"(?:[^"\\]|\\.)*")$`)

func parseFilter(text string) (filter, error) {
	var all filter
	for part := range strings.SplitSeq(text, " AND ") {
		found := conditionPattern.FindStringSubmatch(part)
		if found == nil || (found[2] == ":") != (found[3] == "*") {
			return nil, status.Errorf(codes.InvalidArgument, "the filter has %s", part)
		}
		c := condition{found[1], found[2], ""}
		if found[3] != "*" {
			value, err := strconv.Unquote(found[3])
			if err != nil {
				return nil, status.Errorf(codes.InvalidArgument, "the filter has %s", part)
			}
			c.value = value
		}
		all = append(all, c)
	}
	return all, nil
}

func (f filter) matches(entry *loggingpb.LogEntry) bool {
	for _, c := range f {
		if !c.matches(entry) {
			return false
		}
	}
	return true
}

func (c condition) matches(entry *loggingpb.LogEntry) bool {
	var (
		value string
		there = true
	)
	switch name, label := strings.CutPrefix(c.field, "labels."); {
	case label:
		value, there = entry.GetLabels()[strings.Trim(name, `"`)]
	case c.field == "logName":
		value = entry.GetLogName()
	case c.field == "resource.type":
		value = entry.GetResource().GetType()
	case strings.HasPrefix(c.field, "resource.labels."):
		value, there = entry.GetResource().GetLabels()[strings.TrimPrefix(c.field, "resource.labels.")]
	case c.field == "timestamp":
		limit, err := time.Parse(time.RFC3339Nano, c.value)
		return err == nil && c.operator == ">=" && !entry.GetTimestamp().AsTime().Before(limit)
	default:
		return false
	}
	switch c.operator {
	case ":":
		return there
	case "=":
		return there && value == c.value
	case ">=":
		return there && value >= c.value
	default:
		return there && value < c.value
	}
}
