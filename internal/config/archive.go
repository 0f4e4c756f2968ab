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
	// CloudLog is the name of a log of Cloud Logging, and Project what it is
	// in: empty, the project that this machine belongs to.
	CloudLog, Project string
}

// defaultCloudLog is the log that the GCP flavour ships to.
const defaultCloudLog = "ropewalk"

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
	if c.Kubernetes.Flavour == FlavourGCP && c.Launch.Launcher == LauncherKubernetes {
		return Archive{CloudLog: defaultCloudLog, Project: c.GCP.Project}
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
	case where.Scheme == "gcplog" && where.Host != "" && len(where.Path) > 1:
		return Archive{Project: where.Host, CloudLog: strings.TrimPrefix(where.Path, "/")}, nil
	default:
		return Archive{}, errors.New("is none of s3://BUCKET/PREFIX, gcplog://PROJECT/LOG and file:///PATH")
	}
}
