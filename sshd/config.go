package sshd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ConfigPath is the server's configuration.
const ConfigPath = "/etc/ssh/sshd_config"

// Effective is what `sshd -T` prints for one connection: the values of each
// keyword, in lower case. Some keywords (acceptenv, subsystem) have several.
type Effective map[string][]string

// ParseEffective reads the output of `sshd -T`.
func ParseEffective(text string) Effective {
	e := Effective{}
	for line := range strings.Lines(text) {
		if keyword, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			e[keyword] = append(e[keyword], value)
		}
	}
	return e
}

// Value returns the first value of the keyword, "" if this sshd does not know
// it.
func (e Effective) Value(keyword string) string {
	if values := e[keyword]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// Subsystem returns the command of the subsystem, "" for none.
func (e Effective) Subsystem(name string) string {
	for _, value := range e["subsystem"] {
		if command, ok := strings.CutPrefix(value, name+" "); ok {
			return command
		}
	}
	return ""
}

// A Line is one keyword of the configuration.
type Line struct {
	File    string
	Number  int    // from 1
	Keyword string // in lower case
	Args    string // the rest, as it stands there
}

func (l Line) String() string { return fmt.Sprintf("%s:%d", l.File, l.Number) }

// ReadConfig returns the lines of the configuration and of what it includes,
// in the order in which sshd reads them. root is put in front of every path
// and is in none of the results. It does not decide which line has effect:
// `sshd -T` does.
func ReadConfig(root string) ([]Line, error) {
	return readConfig(root, ConfigPath, 0)
}

// maxDepth is sshd's own limit (SERVCONF_MAX_DEPTH in servconf.c).
const maxDepth = 16

func readConfig(root, file string, depth int) ([]Line, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("read %q: too many levels of Include", file)
	}
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		return nil, err
	}
	var lines []Line
	number := 0
	for text := range strings.Lines(string(text)) {
		number++
		keyword, args := cutKeyword(text)
		if keyword == "" {
			continue
		}
		lines = append(lines, Line{File: file, Number: number, Keyword: keyword, Args: args})
		if keyword != "include" {
			continue
		}
		for pattern := range strings.FieldsSeq(args) {
			more, err := include(root, strings.Trim(pattern, `"`), depth+1)
			if err != nil {
				return nil, err
			}
			lines = append(lines, more...)
		}
	}
	return lines, nil
}

// include reads what one pattern of Include names, in the order of names.
func include(root, pattern string, depth int) ([]Line, error) {
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(filepath.Dir(ConfigPath), pattern)
	}
	files, err := filepath.Glob(filepath.Join(root, pattern))
	if err != nil {
		return nil, fmt.Errorf("include %q: %w", pattern, err)
	}
	slices.Sort(files)
	var lines []Line
	for _, file := range files {
		more, err := readConfig(root, "/"+strings.TrimLeft(strings.TrimPrefix(file, root), "/"), depth)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		lines = append(lines, more...)
	}
	return lines, nil
}

// cutKeyword takes a line apart: blanks or one "=" stand after the keyword. It
// returns "" for a comment or an empty line.
func cutKeyword(line string) (keyword, args string) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return "", ""
	}
	end := strings.IndexAny(line, " \t=")
	if end < 0 {
		return strings.ToLower(line), ""
	}
	args = strings.TrimSpace(line[end:])
	return strings.ToLower(line[:end]), strings.TrimSpace(strings.TrimPrefix(args, "="))
}

// A Connection is what `sshd -T -C` takes for the one that it should tell
// about.
type Connection struct {
	Host, Addr, LocalAddr, LocalPort string // empty ones are not told
}

// Spec returns the argument of -C for a user.
func (c Connection) Spec(user string) string {
	spec := "user=" + user + ",host=" + c.Host + ",addr=" + c.Addr
	if c.LocalAddr != "" {
		spec += ",laddr=" + c.LocalAddr
	}
	if c.LocalPort != "" {
		spec += ",lport=" + c.LocalPort
	}
	return spec
}

func (c Connection) String() string {
	return strings.TrimPrefix(c.Spec(""), "user=,")
}

// maxConnections bounds the connections that are asked about.
const maxConnections = 24

// Connections returns one connection from anywhere, from an address that
// belongs to nobody (RFC 5737), and one more for each thing of a connection
// that a Match line of the configuration asks for, so that an exception for
// the office network does not go unseen.
func Connections(lines []Line) []Connection {
	anywhere := Connection{Host: "host.invalid", Addr: "192.0.2.1", LocalAddr: "192.0.2.2", LocalPort: "22"}
	all := []Connection{anywhere}
	for _, line := range lines {
		if line.Keyword != "match" {
			continue
		}
		words := strings.Fields(line.Args)
		c := anywhere
		for i := 0; i+1 < len(words); i += 2 {
			pattern := first(words[i+1])
			switch strings.ToLower(words[i]) {
			case "address":
				c.Addr = orElse(address(pattern), c.Addr)
			case "localaddress":
				c.LocalAddr = orElse(address(pattern), c.LocalAddr)
			case "localport":
				c.LocalPort = orElse(pattern, c.LocalPort)
			case "host":
				c.Host = orElse(strings.NewReplacer("*", "x", "?", "x").Replace(pattern), c.Host)
			}
		}
		if !slices.Contains(all, c) && len(all) < maxConnections {
			all = append(all, c)
		}
	}
	return all
}

func orElse(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// first returns the first pattern of a list that is not a negation, or "".
func first(patterns string) string {
	for p := range strings.SplitSeq(patterns, ",") {
		if p != "" && p[0] != '!' {
			return p
		}
	}
	return ""
}

// address returns an address that the pattern matches, as far as that is
// simple: that of a network in CIDR, or wildcards become a 1.
func address(pattern string) string {
	addr, _, _ := strings.Cut(pattern, "/")
	return strings.NewReplacer("*", "1", "?", "1").Replace(addr)
}
