package config

import (
	"fmt"
	"io"
	"reflect"
	"strings"
)

const markdownHead = `# Settings

<!-- Generated from internal/config; run make generate after changing it there. -->

Ropewalk is set up by environment variables. The variables of the workload managers that it stands in for work under their own names, with the same meaning and default, so that the values a server was installed with can be used as they are. What is new begins with ` + "`ROPEWALK_`" + `. ` + "`dispatcher settings`" + ` prints every one with the value in effect.

How they are read:

- A variable that is empty, or holds nothing but white space, counts as unset.
- Everything that is wrong is told at once, a line for each variable, with an example of right.
- A variable that begins like one of these (` + "`ROPEWALK_`, `ZENML_KUBERNETES_WORKLOAD_MANAGER_`, `ZENML_AWS_KUBERNETES_WORKLOAD_MANAGER_`, `ZENML_GCP_KUBERNETES_WORKLOAD_MANAGER_`" + `) and is none of them is an error, which names the nearest one. The variables that Kubernetes itself sets for Services with such names (` + "`ROPEWALK_SERVICE_HOST`, `ROPEWALK_NATS_PORT_4222_TCP`" + ` and the like) are passed over. Of the variables that begin with ` + "`ZENML_SERVER_`" + `, most are the server's own: only a name that is a letter or two away from one below is an error.
- Secrets are never printed, neither by errors nor by ` + "`dispatcher settings`" + `.
- true or false may also be written 1 and 0, yes and no, on and off, in any case.
- A length of time is written as in ` + "`90s`, `15m` or `720h`" + `; a number alone is seconds.
- JSON may not hold fields that have no meaning; resource quantities in it may be numbers.

`

const markdownTail = `## Variables of others

Ropewalk also goes by ` + "`KUBECONFIG`" + ` (the cluster, when it does not run inside one), ` + "`NO_COLOR`" + ` (plain output), and the variables of the cloud providers' own libraries, such as ` + "`AWS_ROLE_ARN` and `GOOGLE_APPLICATION_CREDENTIALS`" + `.
`

// WriteMarkdown writes the documentation of every setting, docs/settings.md.
// It depends on nothing but the tree of settings.
func WriteMarkdown(w io.Writer) error {
	var page strings.Builder
	page.WriteString(markdownHead)
	tree := reflect.TypeFor[Config]()
	group := ""
	for _, f := range fields() {
		if f.group != group {
			if group != "" {
				page.WriteString("\n")
			}
			group = f.group
			declared, _ := tree.FieldByName(group)
			fmt.Fprintf(&page, "## %s\n\n%s\n\n| Variable | Default | Meaning |\n|---|---|---|\n", f.title, declared.Tag.Get("about"))
		}
		page.WriteString(f.row())
	}
	page.WriteString("\n" + markdownTail)
	if _, err := io.WriteString(w, page.String()); err != nil {
		return fmt.Errorf("write the settings page: %w", err)
	}
	return nil
}

// row is the setting's line in its group's table.
func (f field) row() string {
	def := "unset"
	switch {
	case f.def != "":
		def = code(f.def)
	case f.needed != "":
		def = "needed " + f.needed
	}
	return fmt.Sprintf("| %s | %s | %s<br>Value: %s. Example: %s |\n",
		code(f.name), def, escapeCell(f.meaning), escapeCell(f.values()), code(f.example))
}

// code sets text as code inside a table.
func code(text string) string { return "`" + escapeCell(text) + "`" }

func escapeCell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
