package k8sjobs

import (
	"bytes"
	"os"
	"slices"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// What is checked for is what is shipped, no more and no less.
func TestRightsAreThoseOfTheShippedRole(t *testing.T) {
	text, err := os.ReadFile("../../deploy/manifests/rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var shipped, listed []string
	for document := range bytes.SplitSeq(text, []byte("\n---\n")) {
		var role rbacv1.Role
		if err := yaml.Unmarshal(document, &role); err != nil {
			t.Fatal(err)
		}
		if role.Kind != "Role" {
			continue
		}
		for _, rule := range role.Rules {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					shipped = append(shipped, rule.APIGroups[0]+": "+verb+" "+resource)
				}
			}
		}
	}
	for _, right := range Rights() {
		listed = append(listed, right.Group+": "+right.String())
	}
	slices.Sort(shipped)
	slices.Sort(listed)
	if len(shipped) == 0 || !slices.Equal(shipped, listed) {
		t.Errorf("the Role gives\n%q\nand Rights lists\n%q", shipped, listed)
	}
}
