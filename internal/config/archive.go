package config

import (
	"errors"
	"net/url"
	"path/filepath"
	"strings"
)

// Archive is where logs are kept. The zero value is nowhere.
type Archive struct {
	// Folder is a path on this machine.
	Folder string
	// Bucket is one of S3, Prefix what its keys begin with: empty, or ending
	// with "/".
	Bucket, Prefix string
}

// Archive says where the settings have logs kept.
func (c *Config) Archive() Archive {
	if c.Logs.Archive != "" {
		archive, err := parseArchive(c.Logs.Archive)
		if err != nil {
			panic("config: an archive that was not checked: " + err.Error())
		}
		return archive
	}
	if c.Logs.ExternalLogs {
		return Archive{Bucket: c.AWS.Bucket.Name, Prefix: folderOf(c.AWS.Bucket.Prefix)}
	}
	return Archive{}
}

// folderOf ends a prefix with a slash unless it is empty.
func folderOf(prefix string) string {
	prefix = strings.Trim(prefix, "/")
	if prefix == "" {
		return ""
	}
	return prefix + "/"
}

func parseArchive(text string) (Archive, error) {
	where, err := url.Parse(text)
	switch {
	case err != nil:
		return Archive{}, errors.New("is no address")
	case where.Scheme == "file" && where.Host == "" && filepath.IsAbs(where.Path):
		return Archive{Folder: filepath.Clean(where.Path)}, nil
	case where.Scheme == "s3" && where.Host != "":
		return Archive{Bucket: where.Host, Prefix: folderOf(where.Path)}, nil
	default:
		return Archive{}, errors.New("is neither s3://BUCKET/PREFIX nor file:///PATH")
	}
}
