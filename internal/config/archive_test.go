package config

import (
	"strings"
	"testing"
)

func TestWhereLogsAreKept(t *testing.T) {
	const aws = "ZENML_AWS_KUBERNETES_WORKLOAD_MANAGER_BUCKET"
	for name, test := range map[string]struct {
		environment map[string]string
		want        Archive
	}{
		"nowhere":              {nil, Archive{}},
		"a folder":             {map[string]string{"ROPEWALK_LOG_ARCHIVE": "file:///var/lib/logs/"}, Archive{Folder: "/var/lib/logs"}},
		"a bucket":             {map[string]string{"ROPEWALK_LOG_ARCHIVE": "s3://b/a/b/"}, Archive{Bucket: "b", Prefix: "a/b/"}},
		"a log":                {map[string]string{"ROPEWALK_LOG_ARCHIVE": "gcplog://p/a/b"}, Archive{Project: "p", CloudLog: "a/b"}},
		"the AWS flavour's":    {map[string]string{flavour: FlavourAWS.Source(), externalLogs: "true", aws: "s3://bucket/x"}, Archive{Bucket: "bucket", Prefix: "x/"}},
		"AWS, but not outside": {map[string]string{flavour: FlavourAWS.Source(), aws: "s3://bucket/x"}, Archive{}},
		"the GCP flavour's":    {map[string]string{flavour: FlavourGCP.Source()}, Archive{CloudLog: "ropewalk"}},
		"GCP, in a project":    {map[string]string{flavour: FlavourGCP.Source(), "ROPEWALK_GCP_PROJECT": "project-1"}, Archive{CloudLog: "ropewalk", Project: "project-1"}},
		"GCP, but elsewhere":   {map[string]string{flavour: FlavourGCP.Source(), "ROPEWALK_LOG_ARCHIVE": "s3://b"}, Archive{Bucket: "b"}},
		"GCP, and no cluster":  {map[string]string{flavour: FlavourGCP.Source(), launcher: LauncherLocal}, Archive{}},
	} {
		t.Run(name, func(t *testing.T) {
			for variable, value := range test.environment {
				t.Setenv(variable, value)
			}
			settings, err := LoadLogs()
			if err != nil {
				t.Fatal(err)
			}
			if got := settings.Archive(); got != test.want {
				t.Errorf("%+v; want %+v", got, test.want)
			}
		})
	}
	for _, wrong := range []string{"s3://", "gcplog://p", "gcplog://p/", "http://x/y", "file://host/x", "logs"} {
		t.Setenv("ROPEWALK_LOG_ARCHIVE", wrong)
		if _, err := LoadLogs(); err == nil || !strings.Contains(err.Error(), "gcplog://PROJECT/LOG") {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}
