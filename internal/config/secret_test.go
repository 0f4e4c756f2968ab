package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// views are all the ways in which a configuration, or what is wrong with it,
// can be seen.
func views(t *rapid.T, config *Config, err error) []string {
	var seen []string
	add := func(value any) {
		asJSON, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, string(asJSON))
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			seen = append(seen, fmt.Sprintf(verb, value))
		}
	}
	if failure, ok := errors.AsType[*Error](err); ok {
		add(failure)
		add(failure.Problems)
		seen = append(seen, err.Error())
	}
	if config != nil {
		add(*config)
		add(config.Table())
	}
	return seen
}

// Whatever else is wrong with the environment, and wherever a secret can
// stand, no view of it shows the secret.
func TestSecretsAreInNoErrorAndNoView(t *testing.T) {
	const mark = "hunter2"
	setenv(t, nil)
	secret := rapid.Custom(func(t *rapid.T) string {
		around := rapid.StringMatching(`[ -~\n]{0,8}`)
		return around.Draw(t, "before") + mark + around.Draw(t, "after")
	})
	places := map[string]func(string) string{
		natsPassword:         func(s string) string { return s },
		natsToken:            func(s string) string { return s },
		natsURL:              func(s string) string { return "nats://user:" + s + "@nats.example.com:4222" },
		natsURL + " ":        func(s string) string { return "tls://" + s + "@a, user:" + s + "@b:4222" },
		natsCredentials:      func(s string) string { return "-----BEGIN USER NKEY SEED-----\n" + s },
		natsTLSKey:           func(s string) string { return s },
		dockerRegistry:       func(s string) string { return "user:" + s + "@registry.example.com" },
		"ROPEWALK_PASSWORD":  func(s string) string { return s },
		"ROPEWALK_NATS_TOKN": func(s string) string { return s },
	}
	var names []string
	for _, f := range fields() {
		names = append(names, f.name)
	}
	rapid.Check(t, func(t *rapid.T) {
		env := map[string]string{}
		for _, name := range rapid.SliceOfDistinct(rapid.SampledFrom(names), func(s string) string { return s }).Draw(t, "garbled") {
			env[name] = rapid.StringMatching(`[a-z0-9{}\[\]":,=/ ]{0,12}`).Draw(t, name)
		}
		for place, put := range places {
			if rapid.Bool().Draw(t, "secret in "+place) {
				env[strings.TrimSpace(place)] = put(secret.Draw(t, "secret"))
			}
		}
		defer func() {
			for name := range env {
				if err := os.Unsetenv(name); err != nil {
					t.Fatal(err)
				}
			}
		}()
		for name, value := range env {
			if err := os.Setenv(name, value); err != nil { //nolint:usetesting // each case has its own, and takes it away again
				t.Fatal(err)
			}
		}
		table, err := Settings()
		all := append(views(t, nil, err), fmt.Sprintf("%+v", table))
		for _, load := range []func() (*Config, error){LoadClient, LoadServe, LoadDev} {
			config, err := load()
			all = append(all, views(t, config, err)...)
		}
		for _, view := range all {
			if strings.Contains(view, mark) {
				t.Fatalf("a secret shows in %s", view)
			}
		}
	})
}

// The property above must not hold merely because nothing with a secret loads.
func TestSecretsAreThereForThoseWhoAskForThem(t *testing.T) {
	setenv(t, map[string]string{natsURL: "nats://user:hunter2@a:4222, nats://b", natsUser: ""})
	config, err := LoadClient()
	if err != nil {
		t.Fatal(err)
	}
	if got := config.NATS.URL.Reveal(); got != "nats://user:hunter2@a:4222,nats://b" {
		t.Errorf("the address is %s", got)
	}
	if got := config.NATS.URL.String(); got != "nats://[redacted]@a:4222,nats://b" {
		t.Errorf("the address shows as %s", got)
	}
	setenv(t, map[string]string{natsUser: "user", natsPassword: "hunter2"})
	if config, err = LoadClient(); err != nil {
		t.Fatal(err)
	}
	if config.NATS.Password.Reveal() != "hunter2" {
		t.Errorf("the password is %q", config.NATS.Password.Reveal())
	}
	for _, setting := range config.Table() {
		if setting.Name == natsPassword && (setting.Value != "[redacted]" || !setting.Set || !setting.Secret) {
			t.Errorf("the table has %+v", setting)
		}
		if setting.Name == natsToken && (setting.Value != "" || setting.Set) {
			t.Errorf("a secret that is not set shows as %+v", setting)
		}
	}
}
