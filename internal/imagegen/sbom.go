package main

import (
	"cmp"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// The parts of an SPDX 2.3 document that a Go program needs.
type (
	spdxDocument struct {
		Version       string             `json:"spdxVersion"`
		DataLicense   string             `json:"dataLicense"`
		ID            string             `json:"SPDXID"`
		Name          string             `json:"name"`
		Namespace     string             `json:"documentNamespace"`
		Creation      spdxCreation       `json:"creationInfo"`
		Packages      []spdxPackage      `json:"packages"`
		Relationships []spdxRelationship `json:"relationships"`
	}
	spdxCreation struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	}
	spdxPackage struct {
		ID        string          `json:"SPDXID"`
		Name      string          `json:"name"`
		Version   string          `json:"versionInfo,omitempty"`
		Location  string          `json:"downloadLocation"`
		License   string          `json:"licenseDeclared"`
		Analyzed  bool            `json:"filesAnalyzed"`
		Checksums []spdxChecksum  `json:"checksums,omitempty"`
		External  []spdxReference `json:"externalRefs,omitempty"`
	}
	spdxChecksum struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"checksumValue"`
	}
	spdxReference struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	spdxRelationship struct {
		Element string `json:"spdxElementId"`
		Type    string `json:"relationshipType"`
		Related string `json:"relatedSpdxElement"`
	}
)

const (
	spdxRoot     = "SPDXRef-DOCUMENT"
	spdxUnstated = "NOASSERTION"
)

// billOfMaterials lists the modules that the compiler put into a program, which
// notes them in it, and the compiler's own library.
func billOfMaterials(source source, program string, platform v1.Platform, binary string) ([]byte, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, fmt.Errorf("read what the program is made of: %w", err)
	}
	main := spdxPackage{
		ID: "SPDXRef-Program", Name: info.Path, Version: source.version, Location: spdxUnstated, License: "Apache-2.0",
		External: []spdxReference{purl(info.Main.Path, source.version)},
	}
	document := spdxDocument{
		Version: "SPDX-2.3", DataLicense: "CC0-1.0", ID: spdxRoot, Name: "ropewalk-" + program,
		Namespace:     fmt.Sprintf("https://github.com/ropewalk/ropewalk/sbom/%s/%s/%s", program, cmp.Or(source.version, "unknown"), platform.Architecture),
		Creation:      spdxCreation{source.created.Format(time.RFC3339), []string{"Organization: Ropewalk"}},
		Packages:      []spdxPackage{main},
		Relationships: []spdxRelationship{{spdxRoot, "DESCRIBES", main.ID}},
	}
	standard := &debug.Module{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")}
	for _, module := range append([]*debug.Module{standard}, info.Deps...) {
		if module.Replace != nil {
			module = module.Replace
		}
		part, err := describe(module)
		if err != nil {
			return nil, err
		}
		document.Packages = append(document.Packages, part)
		document.Relationships = append(document.Relationships, spdxRelationship{main.ID, "DEPENDS_ON", part.ID})
	}
	text, err := json.MarshalIndent(document, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the bill of materials: %w", err)
	}
	return append(text, '\n'), nil
}

// notInIDs is what an SPDX identifier may not hold.
var notInIDs = regexp.MustCompile(`[^a-zA-Z0-9.-]+`)

func describe(module *debug.Module) (spdxPackage, error) {
	part := spdxPackage{
		ID: "SPDXRef-" + notInIDs.ReplaceAllString(module.Path, "-"), Name: module.Path, Version: module.Version,
		Location: spdxUnstated, License: spdxUnstated, External: []spdxReference{purl(module.Path, module.Version)},
	}
	// A module's sum is the SHA-256 over the sums of its files.
	if sum, ok := strings.CutPrefix(module.Sum, "h1:"); ok {
		raw, err := base64.StdEncoding.DecodeString(sum)
		if err != nil {
			return spdxPackage{}, fmt.Errorf("read the sum of module %s: %w", module.Path, err)
		}
		part.Checksums = []spdxChecksum{{"SHA256", hex.EncodeToString(raw)}}
	}
	return part, nil
}

func purl(path, version string) spdxReference {
	return spdxReference{"PACKAGE-MANAGER", "purl", "pkg:golang/" + path + "@" + version}
}
