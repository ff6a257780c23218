package config

import (
	"strconv"
	"strings"
)

// A lineIndex knows the line of each key of a TOML document. The TOML package
// has positions too, but keeps them to itself except in its own errors, and
// only of the last element of an array of tables.
//
// Keys are named by their path, "limits.memory" or "rule[2].env.EDITOR". Keys
// inside an inline table are not indexed: they are where their table is.
type lineIndex map[string]int

// at returns the line of the key at path, or of the closest table around it,
// or 1.
func (x lineIndex) at(path string) int {
	for path != "" {
		if line, ok := x[path]; ok {
			return line
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return 1
}

// indexLines indexes a document that the TOML parser has accepted; on any
// other it returns something harmless.
func indexLines(doc string) lineIndex {
	s := lineScanner{rest: doc, line: 1, index: lineIndex{}, elements: map[string]int{}}
	for s.statement() {
	}
	return s.index
}

// A lineScanner walks over the statements of a document.
type lineScanner struct {
	rest     string
	line     int
	table    string // path of the current table
	index    lineIndex
	elements map[string]int // how many elements each array of tables has so far
}

// statement consumes a header or a "key = value" and reports whether there was
// one.
func (s *lineScanner) statement() bool {
	s.skipBlank(" \t\r\n")
	if s.rest == "" {
		return false
	}
	line := s.line
	if s.rest[0] != '[' {
		path := s.join(s.table, s.key("="))
		s.value()
		s.note(path, line)
		return true
	}
	array := strings.HasPrefix(s.rest, "[[")
	s.advance(1)
	if array {
		s.advance(1)
	}
	s.table = s.header(s.key("]"), array)
	s.note(s.table, line)
	s.skipLine()
	return true
}

func (s *lineScanner) note(path string, line int) {
	if _, ok := s.index[path]; !ok {
		s.index[path] = line
	}
}

// header returns the path of the table with the given key. Each part of the
// key that names an array of tables stands for the last element of it.
func (s *lineScanner) header(key []string, array bool) string {
	path := ""
	for i, part := range key {
		path = s.join(path, []string{part})
		if array && i == len(key)-1 {
			s.elements[path]++
		}
		if n := s.elements[path]; n > 0 {
			path += "[" + strconv.Itoa(n-1) + "]"
		}
	}
	return path
}

func (*lineScanner) join(table string, key []string) string {
	path := strings.Join(key, ".")
	if table == "" {
		return path
	}
	return table + "." + path
}

// key consumes a dotted key and the character after it, which is one of end.
func (s *lineScanner) key(end string) []string {
	var parts []string
	for s.rest != "" {
		s.skipBlank(" \t")
		if s.rest == "" {
			break
		}
		if q := s.rest[0]; q == '"' || q == '\'' {
			text := s.quoted()
			if plain, err := strconv.Unquote(`"` + text + `"`); q == '"' && err == nil {
				text = plain
			}
			parts = append(parts, text)
		} else {
			n := strings.IndexAny(s.rest, "=]. \t\n")
			if n < 0 {
				n = len(s.rest)
			}
			parts = append(parts, s.rest[:n])
			s.advance(n)
		}
		s.skipBlank(" \t")
		if s.rest == "" {
			break
		}
		c := s.rest[0]
		s.advance(1)
		if c != '.' || strings.IndexByte(end, c) >= 0 {
			break
		}
	}
	return parts
}

// value consumes a value: strings whole, brackets and braces in pairs,
// everything else up to the end of the line or a comment.
func (s *lineScanner) value() {
	depth := 0
	for s.rest != "" {
		switch s.rest[0] {
		case '"', '\'':
			s.quoted()
			continue
		case '#':
			s.skipLine()
			continue
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		case '\n':
			if depth <= 0 {
				return
			}
		}
		s.advance(1)
	}
}

// quoted consumes a string of any of the four kinds and returns what stands
// between the quotes, escapes included.
func (s *lineScanner) quoted() string {
	q := s.rest[:1]
	if triple := strings.Repeat(q, 3); strings.HasPrefix(s.rest, triple) {
		q = triple
	}
	n := len(q)
	for n < len(s.rest) && !strings.HasPrefix(s.rest[n:], q) {
		if q[0] == '"' && s.rest[n] == '\\' {
			n++
		}
		n++
	}
	n = min(n, len(s.rest))
	text := s.rest[len(q):n]
	s.advance(min(n+len(q), len(s.rest)))
	// Up to two quotes may stand just before the closing three.
	for len(q) == 3 && strings.HasPrefix(s.rest, q[:1]) {
		s.advance(1)
	}
	return text
}

// skipBlank consumes the characters of cutset, and comments if lines may end.
func (s *lineScanner) skipBlank(cutset string) {
	for s.rest != "" {
		if s.rest[0] == '#' && strings.Contains(cutset, "\n") {
			s.skipLine()
			continue
		}
		if strings.IndexByte(cutset, s.rest[0]) < 0 {
			return
		}
		s.advance(1)
	}
}

// skipLine goes to the end of the line, not past it.
func (s *lineScanner) skipLine() {
	n := strings.IndexByte(s.rest, '\n')
	if n < 0 {
		n = len(s.rest)
	}
	s.advance(n)
}

func (s *lineScanner) advance(n int) {
	s.line += strings.Count(s.rest[:n], "\n")
	s.rest = s.rest[n:]
}
