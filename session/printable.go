package session

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Printable returns s, cut to limit bytes, with every rune that is not
// printable replaced by '?': what strangers wrote must not drive the reader's
// terminal (CVE-2003-0063 and its many children), nor reorder its line
// (CVE-2021-42574).
func Printable(s string, limit int) string {
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "")
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
