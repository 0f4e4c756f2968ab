package logread

import (
	"cmp"
	"maps"
	"slices"

	"github.com/ropewalk/ropewalk/internal/logevent"
)

// sorted returns logs by attempt and name.
func sorted(logs map[logevent.Log]bool) []logevent.Log {
	return slices.SortedFunc(maps.Keys(logs), func(a, b logevent.Log) int {
		if order := cmp.Compare(a.Attempt, b.Attempt); order != 0 {
			return order
		}
		return cmp.Compare(a.String(), b.String())
	})
}
