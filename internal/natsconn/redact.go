package natsconn

import (
	"net/url"
	"strings"
)

// redact takes user and password out of a list of server addresses, so that
// they can stand in an error.
func redact(servers string) string {
	list := strings.Split(servers, ",")
	for i, server := range list {
		server = strings.TrimSpace(server)
		if !strings.Contains(server, "://") {
			server = "nats://" + server // as the NATS client does
		}
		parsed, err := url.Parse(server)
		if err != nil {
			list[i] = "(an address that is not a URL)"
			continue
		}
		parsed.User = nil
		list[i] = parsed.String()
	}
	return strings.Join(list, ",")
}
