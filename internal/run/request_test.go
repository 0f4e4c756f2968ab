package run

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestEncodeCarriesSecretsAndNothingElseDoes(t *testing.T) {
	request := Request{Version: 1, ID: "a", Queue: "default", Command: []string{"true"}, SecretEnv: map[string]Secret{"TOKEN": "hunter2"}}
	wire, err := request.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(wire), "hunter2") || strings.Contains(string(wire), Redacted) {
		t.Errorf("the wire format must carry the value: %s", wire)
	}
	back, err := Decode(wire)
	if err != nil || !reflect.DeepEqual(back, request) {
		t.Errorf("Decode(Encode(r)) = %+v, %v", back, err)
	}
	plain, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(plain), fmt.Sprintf("%v %+v %#v %s %q %x", request, request, request, request.SecretEnv, request.SecretEnv["TOKEN"], request.SecretEnv["TOKEN"])} {
		if strings.Contains(text, "hunter2") || strings.Contains(text, fmt.Sprintf("%x", "hunter2")) {
			t.Errorf("a secret shows in %s", text)
		}
	}
}
