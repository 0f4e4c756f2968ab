package gcplog

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	ltype "google.golang.org/genproto/googleapis/logging/type"
)

// severity tells how severe a line says that it is: by a field of a JSON object,
// by klog's first letter, by level=, or by an upper-case word near its beginning.
// A line that says nothing has the default severity.
func severity(text []byte) ltype.LogSeverity {
	switch {
	case len(text) == 0:
		return ltype.LogSeverity_DEFAULT
	case text[0] == '{':
		return ofObject(text)
	case isKlog(text):
		return map[byte]ltype.LogSeverity{
			'I': ltype.LogSeverity_INFO, 'W': ltype.LogSeverity_WARNING, 'E': ltype.LogSeverity_ERROR, 'F': ltype.LogSeverity_CRITICAL,
		}[text[0]]
	default:
		return ofWords(text)
	}
}

// mostObject bounds the JSON that is looked into for each line.
const mostObject = 16 << 10

func ofObject(text []byte) ltype.LogSeverity {
	if len(text) > mostObject {
		return ltype.LogSeverity_DEFAULT
	}
	var fields struct {
		Severity, Level, LevelName, Lvl, LogLevel json.RawMessage
		Dotted                                    json.RawMessage `json:"log.level"`
	}
	if json.Unmarshal(text, &fields) != nil {
		return ltype.LogSeverity_DEFAULT
	}
	for _, field := range []json.RawMessage{fields.Severity, fields.Level, fields.LevelName, fields.Lvl, fields.LogLevel, fields.Dotted} {
		var name string
		if json.Unmarshal(field, &name) == nil && name != "" {
			return byName(strings.ToUpper(name))
		}
		var number int
		if json.Unmarshal(field, &number) == nil {
			return byNumber(number)
		}
	}
	return ltype.LogSeverity_DEFAULT
}

// byNumber reads levels as they are numbered by the loggers of Python (10 to
// 50) and of JavaScript (10 to 60). Both have 30 for what is less than an error
// in one and usual in the other: it is a warning.
func byNumber(number int) ltype.LogSeverity {
	switch {
	case number < 10:
		return ltype.LogSeverity_DEFAULT
	case number < 20:
		return ltype.LogSeverity_DEBUG
	case number < 30:
		return ltype.LogSeverity_INFO
	case number < 40:
		return ltype.LogSeverity_WARNING
	case number < 50:
		return ltype.LogSeverity_ERROR
	default:
		return ltype.LogSeverity_CRITICAL
	}
}

func byName(name string) ltype.LogSeverity {
	switch name {
	case "TRACE", "DEBUG":
		return ltype.LogSeverity_DEBUG
	case "INFO", "INFORMATION":
		return ltype.LogSeverity_INFO
	case "NOTICE":
		return ltype.LogSeverity_NOTICE
	case "WARN", "WARNING":
		return ltype.LogSeverity_WARNING
	case "ERR", "ERROR", "SEVERE":
		return ltype.LogSeverity_ERROR
	case "CRIT", "CRITICAL", "FATAL", "PANIC":
		return ltype.LogSeverity_CRITICAL
	case "ALERT":
		return ltype.LogSeverity_ALERT
	case "EMERG", "EMERGENCY":
		return ltype.LogSeverity_EMERGENCY
	default:
		return ltype.LogSeverity_DEFAULT
	}
}

// isKlog: Lmmdd hh:mm:ss
func isKlog(text []byte) bool {
	if len(text) < len("I0102 15:04:05") || !strings.ContainsRune("IWEF", rune(text[0])) || text[5] != ' ' || text[8] != ':' || text[11] != ':' {
		return false
	}
	for _, b := range text[1:5] {
		if b < '0' || b > '9' {
			return false
		}
	}
	return true
}

const (
	// mostHead and mostWords are how far into a line its level is looked for:
	// behind a date, a time, and the name of a module.
	mostHead  = 100
	mostWords = 6
)

func ofWords(text []byte) ltype.LogSeverity {
	head := text[:min(len(text), mostHead)]
	words := bytes.FieldsFunc(head, func(r rune) bool { return strings.ContainsRune(" \t[]()|,", r) })
	words = slices.DeleteFunc(words, func(word []byte) bool { return string(word) == "-" })
	for i, word := range words {
		if level, ok := bytes.CutPrefix(word, []byte("level=")); ok {
			return byName(strings.ToUpper(string(bytes.Trim(level, `"`))))
		}
		if i >= mostWords {
			continue
		}
		name, _, _ := bytes.Cut(word, []byte{':'})
		if level := byName(string(name)); level != ltype.LogSeverity_DEFAULT {
			return level
		}
	}
	return ltype.LogSeverity_DEFAULT
}
